# Numbers of streams that a client must not use again (RFC 9113 sections 5.1 and 5.1.1): those that it has ended or reset itself, and those that it
# has left out. nghttp2 forgets a stream when it closes and passes over whatever still comes for it, because frames may cross a reset of ours on
# their way. A client that has finished a stream has no such excuse. The last 64 numbers are remembered, in two words; what is older is passed over.
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.types cimport Http2Numbers

cdef enum:
    REMEMBERED = 64                 # bits of a word

cdef enum:                          # what take_number says
    NUMBER_FITS = 0                 # or is nghttp2's to refuse: idle, even, zero
    NUMBER_SKIPPED = 1
    NUMBER_FINISHED = 2


cdef inline uint32_t take_number(Http2Numbers* numbers, uint32_t id, bint opens, bint finishes) noexcept nogil:
    # Notes a frame of the stream `id`. `opens`: it is HEADERS, which open a stream that is new; `finishes`: nothing follows it.
    cdef:
        uint32_t following = numbers.next | 1
        uint32_t steps
        uint64_t bit = 1
    if not id & 1:
        return NUMBER_FITS
    if id >= following:
        if not opens:
            return NUMBER_FITS
        steps = (id - following) // 2 + 1
        if steps < REMEMBERED:
            numbers.finished <<= steps
            numbers.skipped = numbers.skipped << steps | ((bit << steps) - 2)       # all between: the new one has bit 0
        else:
            numbers.finished = 0
            numbers.skipped = ~bit
        numbers.next = id + 2
    else:
        steps = (following - id) // 2 - 1
        if steps >= REMEMBERED:
            return NUMBER_FITS
        bit <<= steps
        if numbers.finished & bit:
            return NUMBER_FINISHED
        if numbers.skipped & bit:
            return NUMBER_SKIPPED
    if finishes:
        numbers.finished |= bit
    return NUMBER_FITS
