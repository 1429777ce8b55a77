"""Random two choices: of two backends drawn by weight the less loaded one, by (in_flight + 1) / weight.

Nearly as even as looking at all of them, at the price of two, and workers that do not see each other's last picks do not run to the same
backend. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001). Weights are drawn from an alias table of the image.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.select.randomness cimport next_random
from fastlb.data_plane.select.slow_start cimport RAMP_STEPS, ramp_of, ramped_weight
from fastlb.data_plane.select.weighted_least_connections cimport pick_weighted_least_connections
from fastlb.data_plane.system cimport load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, POOL_SLOW_START, Group, Pool, PoolBackend

cdef enum:
    DRAWS = 16                      # for each of the two; where half are down, 1 in 65,536 finds none


cdef inline uint32_t draw(Pool* pool, const Group* group) noexcept nogil:
    # Index in the group, which is not empty.
    cdef:
        uint64_t bits = next_random(pool)
        uint32_t at = <uint32_t>(((bits >> 32) * group.n_backends) >> 32)
    if group.aliases != NULL and <uint32_t>bits > group.aliases[at].threshold:
        return group.aliases[at].other
    return at


cdef inline int32_t draw_candidate(Pool* pool, const Group* group, int32_t other, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # One that is not `other`; during its slow start with the share of its draws that it has of its weight. NO_BACKEND: DRAWS found none.
    cdef uint32_t _i, at
    for _i in range(DRAWS):
        at = draw(pool, group)
        if <int32_t>at == other or not is_candidate(group, at, tried, n_tried):
            continue
        if unlikely(pool.flags & POOL_SLOW_START) and next_random(pool) % RAMP_STEPS >= ramp_of(pool, &group.backends[at]):
            continue
        return <int32_t>at
    return NO_BACKEND


cdef inline int32_t pick_random_two_choices(Pool* pool, Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves the pool's random state only; O(1). Where few can be picked draws may find none: then the cursor, O(n_backends). Index in the
    # group, or NO_BACKEND.
    cdef:
        int32_t first, second
        const PoolBackend* a
        const PoolBackend* b
        int64_t a_load, b_load, a_weight, b_weight
    if group.max_weight == 0:
        return NO_BACKEND
    first = draw_candidate(pool, group, NO_BACKEND, tried, n_tried)
    if first == NO_BACKEND:
        return pick_weighted_least_connections(pool, group, tried, n_tried)
    second = draw_candidate(pool, group, first, tried, n_tried) if group.n_backends > 1 else NO_BACKEND
    if second == NO_BACKEND:
        return first
    a, b = &group.backends[first], &group.backends[second]
    a_load, b_load = load_relaxed(&a.shared.in_flight) + 1, load_relaxed(&b.shared.in_flight) + 1
    a_weight, b_weight = a.weight, b.weight
    if unlikely(pool.flags & POOL_SLOW_START):
        a_weight, b_weight = ramped_weight(pool, a), ramped_weight(pool, b)
    return second if b_load * a_weight < a_load * b_weight else first
