"""Which backends an algorithm may choose among: one rule for all algorithms."""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastlb.data_plane.system cimport load_relaxed
from fastlb.data_plane.types cimport Pool, PoolBackend


cdef inline bint is_candidate(const Pool* pool, uint32_t index, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Eligible (up, ready, weight > 0, resolved), below its cap, and not tried by this exchange already.
    cdef:
        const PoolBackend* backend = &pool.backends[index]
        uint32_t i
    if not backend.eligible:
        return False
    if backend.max_in_flight != 0 and load_relaxed(&backend.shared.in_flight) >= <int64_t>backend.max_in_flight:
        return False
    for i in range(n_tried):
        if tried[i] == <int32_t>index:
            return False
    return True
