"""Weighted least connections, the default: the lowest (in_flight + 1) / weight.

Compared as 64-bit cross products, so that no division rounds. Ties go round: the scan starts behind the last pick, and only
a strictly better backend replaces the best so far. In-flight counts are the node's, read from shared memory.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.select.slow_start cimport ramped_weight
from fastlb.data_plane.system cimport load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, POOL_SLOW_START, Group, Pool, PoolBackend


cdef inline int32_t find_least_loaded(Pool* pool, Group* group, const int32_t* tried, uint32_t n_tried, bint ramps) noexcept nogil:
    # `ramps` is a constant at each call, so that the scan is compiled once with and once without slow start.
    cdef:
        int32_t best = NO_BACKEND
        int64_t best_load = 1, best_weight = 0, load, weight
        uint32_t at = group.cursor, end = group.n_backends, _turn
        const PoolBackend* backend
    for _turn in range(2):                      # from the cursor to the end, then from the beginning to the cursor
        while at < end:
            backend = &group.backends[at]
            load = load_relaxed(&backend.shared.in_flight) + 1
            weight = ramped_weight(pool, backend) if ramps else <int64_t>backend.weight
            if unlikely(load * best_weight < best_load * weight) and is_candidate(group, at, tried, n_tried):
                best = <int32_t>at
                best_load = load
                best_weight = weight
                if not ramps and load <= 1 and backend.weight == group.max_weight:     # nothing is better
                    return best
            at += 1
        at = 0
        end = group.cursor
    return best


cdef inline int32_t pick_weighted_least_connections(Pool* pool, Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves only group.cursor. O(n_backends), less where an idle one of the highest weight is found. Index in the group, or NO_BACKEND.
    cdef int32_t best
    if unlikely(pool.flags & POOL_SLOW_START):
        best = find_least_loaded(pool, group, tried, n_tried, True)
    else:
        best = find_least_loaded(pool, group, tried, n_tried, False)
    if best != NO_BACKEND:
        group.cursor = <uint32_t>best + 1 if <uint32_t>best + 1 < group.n_backends else 0
    return best
