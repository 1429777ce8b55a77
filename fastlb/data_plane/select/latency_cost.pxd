"""What one more request costs at a backend, by latency and load: the common part of peak_ewma and least_time."""
from libc.stdint cimport int64_t

from fastlb.data_plane.select.latency cimport age_latency
from fastlb.data_plane.select.slow_start cimport ramped_weight
from fastlb.data_plane.system cimport load_long, load_relaxed, unlikely
from fastlb.data_plane.types cimport Pool, PoolBackend

cdef enum:
    UNKNOWN_MICROS = 0x3FFFFFFF     # 18 minutes: one without an answer yet gets one request at a time, while others are known


cdef inline double latency_of(const Pool* pool, const PoolBackend* backend) noexcept nogil:
    # Where it is known. At least 1, so that the load counts.
    return <double><int64_t>age_latency(load_long(&backend.shared.latency), pool.now_ms[0]) + 1


cdef inline double cost_of(const Pool* pool, const PoolBackend* backend) noexcept nogil:
    # latency * (in_flight + 1), for a weight of 1. Of a backend whose latency nobody knows: 0 while nothing is in flight there, so that it is
    # asked; then more than any other. A double, because with a weight the product may have 70 bits; nothing depends on its last ones.
    cdef:
        int64_t load = load_relaxed(&backend.shared.in_flight)
    if unlikely(load_long(&backend.shared.latency) == 0):
        return <double>UNKNOWN_MICROS * <double>(load + 1) if load > 0 else 0
    return latency_of(pool, backend) * <double>(load + 1)


cdef inline double cost_weight(const Pool* pool, const PoolBackend* backend, bint ramps) noexcept nogil:
    # What a cost is divided by. Costs are compared as cross products: a division takes as long as all the rest.
    return <double>ramped_weight(pool, backend) if ramps else <double><int64_t>backend.weight
