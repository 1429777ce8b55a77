"""Normalised paths. Input: a path without its leading slash.

Promises: the result starts with a slash, has no empty, "." or ".." segment and no NUL, fits the room of the raw path, and is
its own normal form once its percent signs are escaped.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from fastlb.data_plane.target cimport normalise_path
from tests.fuzz.expect cimport expect


cdef void check_normal(const char* path, uint32_t size) noexcept nogil:
    cdef uint32_t at, segment = 1, length
    expect(size > 0 and path[0] == c"/", b"a path starts with a slash")
    expect(memchr(path, 0, size) == NULL, b"a path has no NUL")
    for at in range(1, size + 1):
        if at < size and path[at] != c"/":
            continue
        length = at - segment
        expect(length > 0 or at == size, b"no empty segment but the last")
        expect(not (length == 1 and path[segment] == c"."), b"no '.' segment")
        expect(not (length == 2 and path[segment] == c"." and path[segment + 1] == c"."), b"no '..' segment")
        segment = at + 1


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        char* raw
        char* path
        char* escaped
        char* again
        uint32_t i, n = 0
        int normal, second
    if size > 0x10000 or memchr(data, 0, size) != NULL:     # no target holds NUL
        return 0
    raw = <char*>malloc(size + 1)
    path = <char*>malloc(size + 1)
    raw[0] = c"/"
    memcpy(raw + 1, data, size)
    normal = normalise_path(raw, <uint32_t>size + 1, path)
    if normal >= 0:
        expect(<size_t>normal <= size + 1, b"no longer than the raw path")
        check_normal(path, <uint32_t>normal)
        escaped = <char*>malloc(<size_t>normal * 3)
        for i in range(<uint32_t>normal):
            if path[i] == c"%":
                memcpy(escaped + n, b"%25", 3)
                n += 3
            else:
                escaped[n] = path[i]
                n += 1
        again = <char*>malloc(n)
        second = normalise_path(escaped, n, again)
        expect(second == normal and memcmp(again, path, <size_t>normal) == 0, b"a normal path stays as it is")
        free(again)
        free(escaped)
    free(raw)
    free(path)
    return 0


address = <size_t><void*>fuzz_one
