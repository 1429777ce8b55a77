"""Round robin: each eligible backend in turn, from a cursor. Weights are not looked at. The cursor is per worker."""
from libc.stdint cimport int32_t, uint32_t

from fastlb.data_plane.select.candidates cimport find_candidate
from fastlb.data_plane.types cimport NO_BACKEND, Group


cdef inline int32_t pick_round_robin(Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves only group.cursor. O(1) while backends are eligible. Index in the group, or NO_BACKEND.
    cdef int32_t found = find_candidate(group, group.cursor, tried, n_tried)
    if found != NO_BACKEND:
        group.cursor = <uint32_t>found + 1 if <uint32_t>found + 1 < group.n_backends else 0
    return found
