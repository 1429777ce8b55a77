"""Least connections: the backend with the fewest requests in flight, whatever its weight; ties go round.

In-flight counts are the node's, read from shared memory, each pick anew: so every worker sees what the others have begun.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.system cimport load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, Group

cdef enum:
    ANY_LOAD = 0x7FFFFFFFFFFFFFFF


cdef inline int32_t pick_least_connections(Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves only group.cursor. O(n_backends), less where an idle one is found. Index in the group, or NO_BACKEND. The load is looked at
    # first: one that is no improvement, as nearly all are, is passed over after one comparison.
    cdef:
        int32_t best = NO_BACKEND
        int64_t least = ANY_LOAD, load
        uint32_t at = group.cursor, end = group.n_backends, _turn
    for _turn in range(2):                      # from the cursor to the end, then from the beginning to the cursor
        while at < end:
            load = load_relaxed(&group.backends[at].shared.in_flight)
            if unlikely(load < least) and is_candidate(group, at, tried, n_tried):
                best = <int32_t>at
                least = load
                if load <= 0:                   # nothing is better
                    group.cursor = at + 1 if at + 1 < group.n_backends else 0
                    return best
            at += 1
        at = 0
        end = group.cursor
    if best != NO_BACKEND:
        group.cursor = <uint32_t>best + 1 if <uint32_t>best + 1 < group.n_backends else 0
    return best
