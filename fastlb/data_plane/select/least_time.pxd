"""Least time: the backend where one more request costs least, latency * (in_flight + 1) / weight; ties go round.

The latency, from the start of an attempt to the head of its answer, is a moving average over the node (select/latency.pxd). It moves slowly, so
each worker reads it every COSTS_MS and keeps latency / weight in an array; loads are read at every pick, from shared memory.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastlb.data_plane.select.candidates cimport is_candidate
from fastlb.data_plane.select.latency_cost cimport UNKNOWN_MICROS, cost_weight, latency_of
from fastlb.data_plane.system cimport load_long, load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, POOL_SLOW_START, Group, Pool, PoolBackend

cdef enum:
    COSTS_MS = 64                   # under a hundredth of the half-life, and a thousandth of a CPU at 10,000 backends


cdef inline void read_costs(const Pool* pool, Group* group) noexcept nogil:
    # Of one request where nothing is in flight. Below 0: nobody knows the latency.
    cdef:
        uint32_t i
        const PoolBackend* backend
        bint ramps = pool.flags & POOL_SLOW_START
    group.costs_ms = pool.now_ms[0]
    for i in range(group.n_backends):
        backend = &group.backends[i]
        if backend.weight == 0:
            group.costs[i] = UNKNOWN_MICROS     # never a candidate
        elif load_long(&backend.shared.latency) == 0:
            group.costs[i] = -<double>UNKNOWN_MICROS / cost_weight(pool, backend, ramps)
        else:
            group.costs[i] = latency_of(pool, backend) / cost_weight(pool, backend, ramps)


cdef inline int32_t pick_least_time(const Pool* pool, Group* group, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves group.cursor and the costs. O(n_backends), less where an idle one is found whose latency nobody knows. Index in the group, or
    # NO_BACKEND.
    cdef:
        int32_t best = NO_BACKEND
        int64_t load
        double least = 1e300, cost              # above any cost
        uint32_t at = group.cursor, end = group.n_backends, _turn
    if unlikely(pool.now_ms[0] - group.costs_ms >= COSTS_MS):
        read_costs(pool, group)
    for _turn in range(2):                      # from the cursor to the end, then from the beginning to the cursor
        while at < end:
            load = load_relaxed(&group.backends[at].shared.in_flight)
            cost = group.costs[at] * <double>(load + 1)
            if unlikely(cost < least):
                if cost < 0:
                    cost = -cost if load > 0 else 0
                if cost < least and is_candidate(group, at, tried, n_tried):
                    best = <int32_t>at
                    least = cost
                    if cost == 0:               # nothing is better
                        break
            at += 1
        if least == 0:
            break
        at = 0
        end = group.cursor
    if best != NO_BACKEND:
        group.cursor = <uint32_t>best + 1 if <uint32_t>best + 1 < group.n_backends else 0
    return best
