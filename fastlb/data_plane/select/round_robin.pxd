"""Round robin: each eligible backend in turn, from a cursor. Weights are not looked at. The cursor is per worker."""
from libc.stdint cimport int32_t, uint32_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.types cimport NO_BACKEND, Pool


cdef inline int32_t pick_round_robin(Pool* pool, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Borrows pool, moves only pool.cursor. O(1) while backends are eligible. Index into pool.backends, or NO_BACKEND.
    cdef:
        uint32_t i, at
    for i in range(pool.n_backends):
        at = pool.cursor + i
        if at >= pool.n_backends:
            at -= pool.n_backends
        if is_candidate(pool, at, tried, n_tried):
            pool.cursor = at + 1 if at + 1 < pool.n_backends else 0
            return <int32_t>at
    return NO_BACKEND
