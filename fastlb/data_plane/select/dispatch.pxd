"""The one door to selection, for layer 7 and layer 4: it sees a pool, a key and what was tried, never a protocol.

A new algorithm is a new file here, one value of `Algorithm`, one branch below.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.select.consistent_hash cimport pick_consistent_hash
from fastlb.data_plane.select.hash cimport pick_hash
from fastlb.data_plane.select.ip_hash cimport pick_ip_hash
from fastlb.data_plane.select.least_connections cimport pick_least_connections
from fastlb.data_plane.select.least_time cimport pick_least_time
from fastlb.data_plane.select.maglev cimport pick_maglev
from fastlb.data_plane.select.peak_ewma cimport pick_peak_ewma
from fastlb.data_plane.select.random_two_choices cimport pick_random_two_choices
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.select.user_picker cimport pick_by_user
from fastlb.data_plane.select.weighted_least_connections cimport pick_weighted_least_connections
from fastlb.data_plane.select.weighted_round_robin cimport pick_weighted_round_robin
from fastlb.data_plane.system cimport likely
from fastlb.data_plane.types cimport (ALGORITHM_CONSISTENT_HASH, ALGORITHM_HASH, ALGORITHM_IP_HASH, ALGORITHM_LEAST_CONNECTIONS,
                                      ALGORITHM_LEAST_TIME, ALGORITHM_MAGLEV, ALGORITHM_PEAK_EWMA, ALGORITHM_RANDOM_TWO_CHOICES,
                                      ALGORITHM_ROUND_ROBIN, ALGORITHM_USER, ALGORITHM_WEIGHTED_LEAST_CONNECTIONS,
                                      ALGORITHM_WEIGHTED_ROUND_ROBIN,
                                      NO_BACKEND, POOL_SLOW_START, Group, Pool)


cdef inline int32_t pick_in(Pool* pool, Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Index in the group, or NO_BACKEND. The chain becomes a jump table.
    if pool.algorithm == ALGORITHM_WEIGHTED_LEAST_CONNECTIONS:
        return pick_weighted_least_connections(pool, group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_ROUND_ROBIN:
        return pick_round_robin(group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_WEIGHTED_ROUND_ROBIN:
        return pick_weighted_round_robin(pool, group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_LEAST_CONNECTIONS:
        if pool.flags & POOL_SLOW_START:        # weights are 1, and a part of 1 while they are ramped
            return pick_weighted_least_connections(pool, group, tried, n_tried)
        return pick_least_connections(group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_IP_HASH:
        return pick_ip_hash(group, key, tried, n_tried)
    elif pool.algorithm == ALGORITHM_HASH:
        return pick_hash(group, key, tried, n_tried)
    elif pool.algorithm == ALGORITHM_CONSISTENT_HASH:
        return pick_consistent_hash(pool, group, key, tried, n_tried)
    elif pool.algorithm == ALGORITHM_MAGLEV:
        return pick_maglev(group, key, tried, n_tried)
    elif pool.algorithm == ALGORITHM_RANDOM_TWO_CHOICES:
        return pick_random_two_choices(pool, group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_PEAK_EWMA:
        return pick_peak_ewma(pool, group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_LEAST_TIME:
        return pick_least_time(pool, group, tried, n_tried)
    elif pool.algorithm == ALGORITHM_USER:
        return pick_by_user(pool, group, key, tried, n_tried)
    return NO_BACKEND                           # check_pool lets no other pass


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
