"""Slow start: a backend that came up, or joined a running pool, gets its weight by and by.

Weights are seen in RAMP_STEPS parts, so that a weight of 1 can be ramped too. Only pools with POOL_SLOW_START look at this.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport load_long
from fastlb.data_plane.types cimport Pool, PoolBackend

cdef enum:
    RAMP_STEPS = 64                 # 1.6 % of the weight each; a schedule is made anew at each step


cdef inline uint32_t ramp_of(const Pool* pool, const PoolBackend* backend) noexcept nogil:
    # 0 to RAMP_STEPS: the share of its weight that it has now.
    cdef:
        uint64_t since = load_long(&backend.shared.up_since_ms), now = pool.now_ms[0]
    if since == 0:
        return RAMP_STEPS
    if now <= since:
        return 0                    # it came up in this batch
    if now - since >= pool.slow_start_ms:
        return RAMP_STEPS
    return <uint32_t>((now - since) * RAMP_STEPS // pool.slow_start_ms)


cdef inline int64_t ramped_weight(const Pool* pool, const PoolBackend* backend) noexcept nogil:
    # In parts of RAMP_STEPS of one weight; at least 1, so that an eligible backend is never out of reach.
    cdef int64_t weight = <int64_t>backend.weight * ramp_of(pool, backend)
    return weight if weight > 0 else 1
