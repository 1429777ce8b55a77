"""Weighted least connections, the default: the lowest (in_flight + 1) / weight.

Compared as 64-bit cross products, so that no division rounds. Ties go round: the scan starts behind the last pick, and only
a strictly better backend replaces the best so far. In-flight counts are the node's, read from shared memory.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.system cimport load_relaxed
from fastlb.data_plane.types cimport NO_BACKEND, Pool, PoolBackend


cdef inline int32_t pick_weighted_least_connections(Pool* pool, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Borrows pool, moves only pool.cursor. O(n_backends). Index into pool.backends, or NO_BACKEND.
    cdef:
        int32_t best = NO_BACKEND
        int64_t best_load = 0, best_weight = 0, load
        uint32_t _i, at = pool.cursor
        const PoolBackend* backend
    for _i in range(pool.n_backends):
        if is_candidate(pool, at, tried, n_tried):
            backend = &pool.backends[at]
            load = load_relaxed(&backend.shared.in_flight) + 1
            if best == NO_BACKEND or load * best_weight < best_load * <int64_t>backend.weight:
                best = <int32_t>at
                best_load = load
                best_weight = <int64_t>backend.weight
        at += 1
        if at == pool.n_backends:
            at = 0
    if best != NO_BACKEND:
        pool.cursor = <uint32_t>best + 1 if <uint32_t>best + 1 < pool.n_backends else 0
    return best
