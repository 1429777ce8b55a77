"""Cookies of a request. Input: the value of a Cookie field.

Promises: names and values lie in the field, one behind the other, without white space around them; a name is not empty and holds no ";" or
"=", a value no ";"; the end is found.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

from fastlb.data_plane.cookie cimport Cookie, is_blank, next_cookie
from tests.fuzz.expect cimport expect


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        char* field
        const char* at
        const char* end
        Cookie cookie
        uint32_t n = 0
    if size > 0x10000:
        return 0
    field = <char*>malloc(size)                 # ends where the sanitizer looks
    memcpy(field, data, size)
    at = field
    end = field + size
    while next_cookie(at, end, &cookie):
        n += 1
        expect(cookie.name >= at and cookie.name_size > 0, b"a name has a first character, behind the last cookie")
        expect(cookie.value > cookie.name + cookie.name_size and cookie.value + cookie.value_size <= cookie.end <= end,
               b"a value follows its name, in its part of the field")
        expect(memchr(cookie.name, c";", <size_t>(cookie.end - cookie.name)) == NULL, b"a part of the field ends at the first semicolon")
        expect(memchr(cookie.name, c"=", cookie.name_size) == NULL, b"a name ends at the first equals sign")
        expect(not is_blank(cookie.name) and not is_blank(cookie.name + cookie.name_size - 1), b"no white space around a name")
        if cookie.value_size != 0:
            expect(not is_blank(cookie.value) and not is_blank(cookie.value + cookie.value_size - 1), b"no white space around a value")
        expect(cookie.end == end or cookie.end[0] == c";", b"a part ends at a semicolon or with the field")
        expect(n <= size, b"it ends")
        at = cookie.end + 1
    free(field)
    return 0


address = <size_t><void*>fuzz_one
