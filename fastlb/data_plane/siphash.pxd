"""SipHash-2-4: a hash of 64 bits that nobody without the key can steer, for tables whose keys come from clients.

Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF" (2012), sections 2.1 to 2.4.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.system cimport memcpy


cdef inline uint64_t rotate(uint64_t value, uint32_t bits) noexcept nogil:
    return value << bits | value >> (64 - bits)


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[0] = rotate(v[0], 32)
    v[2] += v[3]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[2] = rotate(v[2], 32)


cdef inline uint64_t siphash(uint64_t key_0, uint64_t key_1, const char* data, size_t size) noexcept nogil:
    # Little-endian machines give the published numbers; others have others of their own, which nobody compares.
    cdef:
        uint64_t v[4]
        uint64_t word, last = <uint64_t>size << 56
        size_t i, whole = size // 8 * 8
    v[0] = key_0 ^ <uint64_t>0x736F6D6570736575
    v[1] = key_1 ^ <uint64_t>0x646F72616E646F6D
    v[2] = key_0 ^ <uint64_t>0x6C7967656E657261
    v[3] = key_1 ^ <uint64_t>0x7465646279746573
    for i in range(0, whole, 8):
        memcpy(&word, data + i, 8)
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
    for i in range(whole, size):
        last |= <uint64_t><unsigned char>data[i] << 8 * (i - whole)
    v[3] ^= last
    sip_round(v)
    sip_round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
