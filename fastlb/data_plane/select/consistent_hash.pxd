"""Consistent hash: a ketama ring, nginx's to the bit (`hash ... consistent`): 160 points for each unit of weight, a key belongs to the first
point at or behind its CRC-32. A backend that is added or taken out moves only the keys of its own points.

A backend that cannot be picked is stepped over: the next point's takes its keys. With a balance factor c no backend is given more than c times its
share of what the group has in flight; what is above that goes on to the next points (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with
Bounded Loads", 2016). The ring and its index are the image's: select/tables.pyx.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastlb.data_plane.select.candidates cimport find_candidate, is_candidate, is_eligible
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.system cimport load_relaxed, unlikely
from fastlb.data_plane.types cimport NO_BACKEND, Group, Pool, PoolBackend

cdef enum:
    RING_STEPS = 256                # points looked at; where 90 % of the backends are down, 2 keys in 10^12 need more
    NO_POINT = 0xFFFFFFFF


cdef inline uint32_t find_point(const Group* group, uint32_t hash) noexcept nogil:
    # The first point at or behind `hash`; n_ring behind the last. The index leads there but for a step or two.
    cdef uint32_t at = group.ring_index[<uint64_t>hash >> group.ring_shift]
    while at < group.n_ring and group.ring[at].hash < hash:
        at += 1
    return at


cdef inline void sum_load(const Pool* pool, Group* group) noexcept nogil:
    # What the group has in flight. Once a millisecond: between that, our own picks are added to it.
    cdef:
        uint32_t i
        const PoolBackend* backend
    if group.eligible_weight != 0 and group.summed_ms == pool.now_ms[0]:
        return
    group.summed_ms = pool.now_ms[0]
    group.in_flight = group.eligible_weight = 0
    for i in range(group.n_backends):
        backend = &group.backends[i]
        if is_eligible(backend):
            group.in_flight += load_relaxed(&backend.shared.in_flight)
            group.eligible_weight += backend.weight


cdef inline bint is_within_bound(const Pool* pool, const Group* group, uint32_t at) noexcept nogil:
    # Whether one more here stays at or below ceil(c * its share of one more in all).
    cdef const PoolBackend* backend = &group.backends[at]
    # As doubles: the products may have more than 64 bits, but 53 where one request makes a difference.
    return <double>load_relaxed(&backend.shared.in_flight) * <double>group.eligible_weight * 1000 \
        < <double>pool.balance_permille * <double>(group.in_flight + 1) * <double>backend.weight


cdef inline int32_t pick_consistent_hash(Pool* pool, Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves nothing, with a key, but what it knows of the load. O(1) while backends are eligible; with a balance factor O(n_backends) once a
    # millisecond. Index in the group, or NO_BACKEND.
    cdef:
        uint32_t _i, at, backend, before = NO_POINT
        int32_t first = NO_BACKEND              # the first candidate, whatever its load
    if key == 0:
        return pick_round_robin(group, tried, n_tried)
    if group.n_ring == 0:
        return NO_BACKEND
    if unlikely(pool.balance_permille != 0):
        sum_load(pool, group)
    at = find_point(group, <uint32_t>key)
    for _i in range(min(group.n_ring, <uint32_t>RING_STEPS)):
        if at >= group.n_ring:
            at = 0
        backend = group.ring[at].backend
        at += 1
        if backend == before or not is_candidate(group, backend, tried, n_tried):
            before = backend
            continue
        before = backend
        if unlikely(pool.balance_permille != 0):
            if not is_within_bound(pool, group, backend):
                if first == NO_BACKEND:
                    first = <int32_t>backend
                continue
            group.in_flight += 1
        return <int32_t>backend
    if first == NO_BACKEND:
        first = find_candidate(group, <uint32_t>key % group.n_backends, tried, n_tried)
    return first
