"""A cursor over a block that is being filled: heads are written with it. Running out of room is noted, not reported at each step."""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.system cimport likely, memcpy


cdef struct Writer:
    char* at                        # borrowed
    char* end
    bint overflow


cdef inline void put(Writer* writer, const char* data, size_t size) noexcept nogil:
    if likely(<size_t>(writer.end - writer.at) >= size):
        memcpy(writer.at, data, size)
        writer.at += size
    else:
        writer.overflow = True


cdef inline void put_number(Writer* writer, uint64_t value) noexcept nogil:
    cdef:
        char digits[20]
        uint32_t at = 20
    while True:
        at -= 1
        digits[at] = <char>(c"0" + value % 10)
        value //= 10
        if value == 0:
            break
    put(writer, digits + at, 20 - at)
