"""The one door to selection, for layer 7 and layer 4: it sees a pool, a key and what was tried, never a protocol.

A new algorithm is a new file here, one value of `Algorithm`, one branch below.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.select.least_connections cimport pick_least_connections
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.select.weighted_least_connections cimport pick_weighted_least_connections
from fastlb.data_plane.select.weighted_round_robin cimport pick_weighted_round_robin
from fastlb.data_plane.system cimport likely
from fastlb.data_plane.types cimport (ALGORITHM_LEAST_CONNECTIONS, ALGORITHM_ROUND_ROBIN, ALGORITHM_WEIGHTED_ROUND_ROBIN, NO_BACKEND,
                                      POOL_SLOW_START, Group, Pool)


cdef inline int32_t pick_in(Pool* pool, Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Index in the group, or NO_BACKEND.
    if pool.algorithm == ALGORITHM_ROUND_ROBIN:
        return pick_round_robin(group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_WEIGHTED_ROUND_ROBIN:
        return pick_weighted_round_robin(pool, group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_LEAST_CONNECTIONS and not pool.flags & POOL_SLOW_START:
        return pick_least_connections(group, tried, n_tried)
    return pick_weighted_least_connections(pool, group, tried, n_tried)


cdef inline int32_t pick(Pool* pool, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Index into pool.backends, or NO_BACKEND. `key`: what hash_key made of the exchange's key where the pool has POOL_NEEDS_KEY, else 0.
    # Claims nothing: see backend_table.claim. A group is left out only when it has no candidate at all.
    cdef:
        Group* group = pool.groups
        Group* end = pool.groups + pool.n_groups
        int32_t at
    while True:
        at = pick_in(pool, group, key, tried, n_tried)
        if likely(at != NO_BACKEND):
            return <int32_t>group.first + at
        group += 1
        if group == end:
            return NO_BACKEND
