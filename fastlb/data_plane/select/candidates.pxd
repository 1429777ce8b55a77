"""Which backends an algorithm may choose among: one rule for all algorithms. They see a group of a pool; indices count in the group."""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastlb.data_plane.system cimport load_now, load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, Group, PoolBackend


cdef inline bint is_eligible(const PoolBackend* backend) noexcept nogil:
    # Weight > 0 and resolved, as the image says; up and ready, as shared memory says now, or not barred by what it is (panic.pyx).
    return backend.eligible and load_now(&backend.shared.state) & backend.barred_by == 0


cdef inline bint is_candidate(const Group* group, uint32_t at, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Eligible, below its cap, and not tried by this exchange already (`tried` counts in the pool).
    cdef:
        const PoolBackend* backend = &group.backends[at]
        uint32_t i
    if not is_eligible(backend):
        return False
    if unlikely(backend.max_in_flight != 0) and load_relaxed(&backend.shared.in_flight) >= <int64_t>backend.max_in_flight:
        return False
    for i in range(n_tried):
        if tried[i] == <int32_t>(group.first + at):
            return False
    return True


cdef inline int32_t find_candidate(const Group* group, uint32_t start, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # The first candidate at or behind `start` (in the group), going round: where an algorithm's own way found none. O(n_backends).
    cdef uint32_t _i, at = start
    for _i in range(group.n_backends):
        if is_candidate(group, at, tried, n_tried):
            return <int32_t>at
        at += 1
        if at == group.n_backends:
            at = 0
    return NO_BACKEND
