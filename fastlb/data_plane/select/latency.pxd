"""What is known of a backend's latency: a moving average over the node, in one word of its shared row.

The upper half is the average in microseconds, the lower half when it was last changed, in milliseconds of the node's monotonic clock. A new sample
takes the place of what is older: after one half-life without news it counts for half. Read later, an average that nobody renewed falls by the
same rule, so that a backend which was slow once is asked again. 0 = nothing is known.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport exchange_long_if, load_long
from fastlb.data_plane.types cimport SharedRow

cdef enum:
    HALF_LIFE_MS = 8192             # a power of two; an exponential average over about 12 s (Finagle's takes 10 s)
    HALF_LIFE_BITS = 13
    MOST_MICROS = 0xFFFFFFFF        # 71 minutes


cdef inline uint64_t pack_latency(uint64_t micros, uint64_t now_ms) noexcept nogil:
    # At least 1: what was measured is known.
    return min(max(micros, <uint64_t>1), <uint64_t>MOST_MICROS) << 32 | (now_ms & <uint64_t>0xFFFFFFFF)


cdef inline uint64_t decay(uint64_t value, uint32_t age_ms) noexcept nogil:
    # value * 2^(-age / half-life): exact at whole half-lives, a straight line (at most 6 % above the curve) between them. `value` has 32 bits.
    cdef uint32_t halves = age_ms >> HALF_LIFE_BITS
    value >>= min(halves, <uint32_t>32)
    return value - (value * (age_ms & (HALF_LIFE_MS - 1)) >> (HALF_LIFE_BITS + 1))


cdef inline uint64_t age_latency(uint64_t word, uint64_t now_ms) noexcept nogil:
    # The average as it counts now, in microseconds. Stamps of other workers may be a batch ahead of our clock: those are of now.
    cdef uint32_t age_ms = <uint32_t>now_ms - <uint32_t>word
    if age_ms > <uint32_t>0x7FFFFFFF:
        age_ms = 0
    return decay(word >> 32, age_ms)


cdef inline void note_row_latency(SharedRow* row, uint64_t micros, uint64_t now_ms, bint peak) noexcept nogil:
    # One more sample. `peak`: one above the average takes its place at once (Peak EWMA), so that trouble is seen with the first answer.
    # A change too small to be written leaves the stamp too, so that samples which come fast add up to one.
    cdef:
        uint64_t word = load_long(&row.latency), old, new
        uint32_t age_ms
    micros = min(max(micros, <uint64_t>1), <uint64_t>MOST_MICROS)
    while True:
        old = word >> 32
        age_ms = <uint32_t>now_ms - <uint32_t>word
        if age_ms > <uint32_t>0x7FFFFFFF:
            age_ms = 0
        if old == 0 or (peak and micros > old):
            new = micros
        elif micros >= old:
            new = micros - decay(micros - old, age_ms)
        else:
            new = micros + decay(old - micros, age_ms)
        if new == old and micros != old:
            return
        if exchange_long_if(&row.latency, &word, pack_latency(new, now_ms)):
            return
