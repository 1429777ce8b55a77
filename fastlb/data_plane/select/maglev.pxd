"""Maglev: by a table in which every backend has its share of slots; a key is a slot. Spreads keys more evenly than a ring, in one step, and a
backend that is added or taken out moves little more than its own keys (and all of them where the table changes its size).

The keys of a backend that cannot be picked are hashed again, so that they spread over all others; nobody else's move. The table is the
image's: select/tables.pyx.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.select.candidates cimport find_candidate, is_candidate
from fastlb.data_plane.select.randomness cimport mix
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.types cimport NO_BACKEND, Group

cdef enum:
    MAGLEV_TRIES = 64               # where 90 % of the slots are of backends that are down, 1 key in 1,000 needs more


cdef inline int32_t pick_maglev(Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves nothing, with a key. O(1) while backends are eligible. Index in the group, or NO_BACKEND.
    cdef uint32_t _i, at
    if key == 0:
        return pick_round_robin(group, tried, n_tried)
    if group.n_slots == 0:
        return NO_BACKEND
    for _i in range(MAGLEV_TRIES):
        at = group.slots[((key >> 32) * group.n_slots) >> 32]
        if is_candidate(group, at, tried, n_tried):
            return <int32_t>at
        key = mix(key)
    return find_candidate(group, <uint32_t>(key % group.n_backends), tried, n_tried)
