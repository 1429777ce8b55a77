"""Weighted round robin, smooth: with weights 5, 1, 1 the order is a a b a c a a, pick by pick what nginx's loop gives.

That loop credits every backend with its weight, takes the richest (the first of equals) and charges it the sum of all weights. Backends of
one weight differ only in how often they were charged, and never by more than once: so they take turns within a class, and a class is as rich
as the one whose turn it is. A pick is O(number of different weights).

The schedule is per worker. It is of eligible backends only: when the state of any row of the node has changed it is made anew, O(n), and then
begins anywhere, so that frequent changes do not favour those at its beginning. The turn of a backend that is full, or was tried already,
is lost, so the shares of the others stay as they are.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastlb.data_plane.select.candidates cimport is_candidate, is_eligible
from fastlb.data_plane.select.randomness cimport next_random, random_below
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.select.slow_start cimport RAMP_STEPS, ramp_of, ramped_weight
from fastlb.data_plane.system cimport load_long, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, POOL_SLOW_START, Group, Pool, PoolBackend, WeightClass

cdef enum:
    NO_CLASSES = 0xFFFFFFFF         # Group.n_classes before the first schedule
    MOST_TURNS_LOST = 32            # then any candidate will do


cdef inline void make_classes(Pool* pool, Group* group) noexcept nogil:
    # Of the backends that are eligible now. by_weight has them in the order of their weights, and those of one weight in their own.
    cdef:
        uint32_t i, n = 0, n_classes = 0
        int64_t weight
        bint ramps = False, again = group.n_classes != <uint32_t>NO_CLASSES
        WeightClass* current = NULL
        const PoolBackend* backend
    group.classes_of = load_long(pool.state_changes)
    group.class_weight = 0
    for i in range(group.n_backends):
        backend = &group.backends[group.by_weight[i]]
        if not is_eligible(backend):
            continue
        weight = <int64_t>backend.weight
        if pool.flags & POOL_SLOW_START:
            weight = ramped_weight(pool, backend)
            ramps = ramps or ramp_of(pool, backend) < RAMP_STEPS
        if current == NULL or current.weight != weight:
            current = &group.classes[n_classes]
            n_classes += 1
            current.weight = weight
            current.first = n
            current.n = current.taken = 0
        group.members[n] = group.by_weight[i]
        current.n += 1
        n += 1
        group.class_weight += weight
    group.n_classes = n_classes
    group.classes_until_ms = pool.now_ms[0] + pool.slow_start_ms // RAMP_STEPS + 1 if ramps else 0
    for i in range(n_classes):
        current = &group.classes[i]
        current.credit = -<int64_t>(next_random(pool) % <uint64_t>group.class_weight) if again else 0
        current.next = current.first + (random_below(pool, current.n) if again else 0)


cdef inline uint32_t take_turn(Group* group) noexcept nogil:
    # The next of the schedule, which has a class. Index in the group.
    cdef:
        uint32_t i, at
        WeightClass* best = NULL
        WeightClass* current
    for i in range(group.n_classes):
        current = &group.classes[i]
        current.credit += current.weight
        if best == NULL or current.credit > best.credit \
                or (current.credit == best.credit and group.members[current.next] < group.members[best.next]):
            best = current
    at = group.members[best.next]
    best.next = best.next + 1 if best.next + 1 < best.first + best.n else best.first
    best.taken += 1
    if best.taken == best.n:                    # all of them have been charged once more
        best.taken = 0
        best.credit -= group.class_weight
    return at


cdef inline int32_t pick_weighted_round_robin(Pool* pool, Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Changes the group's schedule, and its cursor where that does not help. Index in the group, or NO_BACKEND.
    cdef uint32_t _i, at
    if unlikely(group.n_classes == <uint32_t>NO_CLASSES or group.classes_of != load_long(pool.state_changes)
                or (group.classes_until_ms != 0 and pool.now_ms[0] >= group.classes_until_ms)):
        make_classes(pool, group)
    if group.n_classes == 0:
        return NO_BACKEND
    for _i in range(MOST_TURNS_LOST):
        at = take_turn(group)
        if is_candidate(group, at, tried, n_tried):
            return <int32_t>at
    return pick_round_robin(group, tried, n_tried)
