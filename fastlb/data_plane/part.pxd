"""A part of a message in network byte order, read from its front. Every size is checked against what holds it."""
from libc.stdint cimport uint8_t, uint32_t

cdef struct Part:                   # not read yet; borrowed
    const uint8_t* at
    uint32_t size


cdef inline bint take_number(Part* whole, uint32_t n_bytes, uint32_t* number) noexcept nogil:
    # The next bytes, in network order. False: there are not that many.
    cdef uint32_t i
    if whole.size < n_bytes:
        return False
    number[0] = 0
    for i in range(n_bytes):
        number[0] = number[0] << 8 | whole.at[i]
    whole.at += n_bytes
    whole.size -= n_bytes
    return True


cdef inline bint take_part(Part* whole, uint32_t n_bytes, Part* part) noexcept nogil:
    # What stands behind `n_bytes` that say its size. False: it does not fit.
    cdef uint32_t size = 0
    if not take_number(whole, n_bytes, &size) or size > whole.size:
        return False
    part.at = whole.at
    part.size = size
    whole.at += size
    whole.size -= size
    return True
