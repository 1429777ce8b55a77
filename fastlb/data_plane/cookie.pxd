"""Cookies of a request: the pairs of its Cookie fields, as they were sent (RFC 6265 section 5.4). Nothing is decoded, nothing copied.

A field is split at each ";", a quoted one too (no cookie's value may hold one). A part without "=" is no cookie. Names are compared byte by byte:
they are case-sensitive. Of several cookies with one name the first counts, which is the one for the longest path. One pass over the field,
so the work is bounded by the size of the head.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.system cimport memchr, memcmp
from fastlb.data_plane.types cimport HEADER_COOKIE, Head, HeaderField


cdef struct Cookie:
    # Borrowed from the head that it was found in.
    const char* name
    const char* value
    uint32_t name_size, value_size
    const char* end                 # of its part of the field: a ";", or the end of the field


cdef inline bint is_blank(const char* at) noexcept nogil:
    return at[0] == c" " or at[0] == c"\t"


cdef inline bint next_cookie(const char* at, const char* end, Cookie* cookie) noexcept nogil:
    # The first cookie of [at, end), without white space around name and value; the next one is looked for from cookie.end + 1 on, which may
    # be end + 1. False: there is none.
    cdef:
        const char* stop
        const char* equals
        const char* last
    while at < end:
        stop = <const char*>memchr(at, c";", <size_t>(end - at))
        if stop == NULL:
            stop = end
        while at < stop and is_blank(at):
            at += 1
        equals = <const char*>memchr(at, c"=", <size_t>(stop - at))
        if equals != NULL and equals != at:
            cookie.end = stop
            last = equals
            while is_blank(last - 1):           # ends at the name's first byte, which is none
                last -= 1
            cookie.name = at
            cookie.name_size = <uint32_t>(last - at)
            at = equals + 1
            last = stop
            while at < last and is_blank(at):
                at += 1
            while last > at and is_blank(last - 1):
                last -= 1
            cookie.value = at
            cookie.value_size = <uint32_t>(last - at)
            return True
        at = stop + 1
    return False


cdef inline bint is_named(const Cookie* cookie, const char* name, uint32_t size) noexcept nogil:
    return cookie.name_size == size and memcmp(cookie.name, name, size) == 0


cdef inline bint find_cookie(const Head* head, const char* name, uint32_t size, Cookie* cookie) noexcept nogil:
    # The first cookie of a request with this name. False: it has none.
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* at
        const char* end
        uint32_t _i
    if not (head.seen >> HEADER_COOKIE) & 1:
        return False
    for _i in range(head.n_fields):
        if field.id == HEADER_COOKIE:
            at = head.data + field.value
            end = at + field.value_size
            while next_cookie(at, end, cookie):
                if is_named(cookie, name, size):
                    return True
                at = cookie.end + 1
        field += 1
    return False
