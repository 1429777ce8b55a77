"""Random numbers of the engine: xoshiro256** (Blackman and Vigna), seeded by the kernel. Even and fast; unique, not secret."""
from libc.stdint cimport uint64_t

from fastlb.data_plane.types cimport Engine


cdef inline uint64_t next_random(Engine* engine) noexcept nogil:
    cdef:
        uint64_t* s = engine.random
        uint64_t value = s[1] * 5
        uint64_t shifted = s[1] << 17
    value = (value << 7 | value >> 57) * 9
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= shifted
    s[3] = s[3] << 45 | s[3] >> 19
    return value
