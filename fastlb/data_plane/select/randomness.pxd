"""Random numbers for picks: splitmix64, one state a pool, seeded by the engine. Even, fast, and of no use for secrets."""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.types cimport Pool


cdef inline uint64_t mix(uint64_t bits) noexcept nogil:
    # Spreads every bit over all of them (the finaliser of splitmix64).
    bits = (bits ^ (bits >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * <uint64_t>0x94D049BB133111EB
    return bits ^ (bits >> 31)


cdef inline uint64_t next_random(Pool* pool) noexcept nogil:
    pool.random += <uint64_t>0x9E3779B97F4A7C15
    return mix(pool.random)


cdef inline uint32_t random_below(Pool* pool, uint32_t n) noexcept nogil:
    # 0 to n - 1; even to within n / 2^32.
    return <uint32_t>(((next_random(pool) >> 32) * n) >> 32)
