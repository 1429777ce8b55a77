"""Peak EWMA: of two backends drawn by weight the one where a request costs less, latency * (in_flight + 1) / weight.

The latency is a moving average over the node that a slow answer raises at once and that falls with time (select/latency.pxd). Source: Finagle
and Linkerd, "Beyond round robin: load balancing for latency" (2016), which draw two as well.
"""
from libc.stdint cimport int32_t, uint32_t

from fastlb.data_plane.select.latency_cost cimport cost_of, cost_weight
from fastlb.data_plane.select.random_two_choices cimport draw_candidate
from fastlb.data_plane.select.weighted_least_connections cimport pick_weighted_least_connections
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport NO_BACKEND, POOL_SLOW_START, Group, Pool, PoolBackend


cdef inline int32_t pick_peak_ewma(Pool* pool, Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves the pool's random state only; O(1). Where few can be picked draws may find none: then the cursor, O(n_backends). Index in the
    # group, or NO_BACKEND.
    cdef:
        int32_t first, second
        const PoolBackend* a
        const PoolBackend* b
        bint ramps = pool.flags & POOL_SLOW_START
    if group.max_weight == 0:
        return NO_BACKEND
    first = draw_candidate(pool, group, NO_BACKEND, tried, n_tried)
    if unlikely(first == NO_BACKEND):
        return pick_weighted_least_connections(pool, group, tried, n_tried)
    second = draw_candidate(pool, group, first, tried, n_tried) if group.n_backends > 1 else NO_BACKEND
    if second == NO_BACKEND:
        return first
    a, b = &group.backends[first], &group.backends[second]
    return second if cost_of(pool, b) * cost_weight(pool, a, ramps) < cost_of(pool, a) * cost_weight(pool, b, ramps) else first
