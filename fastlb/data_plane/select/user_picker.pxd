"""A picker of the user's own: a C function that a pool names, loaded when its snapshot is prepared (fastlb/picker.h has its side of it).

It sees one group at a time and is asked only when something can be picked; its answer is believed as far as it is an index of the group that
can be. O(n_backends), for the arrays that it is given.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.select.randomness cimport next_random
from fastlb.data_plane.select.weighted_least_connections cimport pick_weighted_least_connections
from fastlb.data_plane.system cimport load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, Group, Pool, UserPicker


cdef inline int32_t pick_by_user(Pool* pool, Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Index in the group, or NO_BACKEND.
    cdef:
        UserPicker* picker = pool.user_picker
        uint32_t i, n = group.n_backends, n_eligible = 0
        int32_t answer
    for i in range(n):
        picker.eligible[i] = is_candidate(group, i, tried, n_tried)
        n_eligible += picker.eligible[i]
        picker.in_flight[i] = load_relaxed(&group.backends[i].shared.in_flight)
    if n_eligible == 0:
        return NO_BACKEND
    picker.context.n_backends = n
    picker.context.n_eligible = n_eligible
    picker.context.attempt = n_tried
    picker.context.key = key
    picker.context.random = next_random(pool)
    picker.context.now_ms = pool.now_ms[0]
    picker.context.weights = picker.weights + group.first
    answer = picker.pick(&picker.context)
    if unlikely(<uint32_t>answer >= n or not is_candidate(group, <uint32_t>answer, tried, n_tried)):
        picker.rejected[0] += 1
        return pick_weighted_least_connections(pool, group, tried, n_tried)
    return answer
