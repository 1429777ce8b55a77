"""Hashing of keys: from the bytes to the 64-bit number that pick() gets.

Whoever makes the bytes (a client's address, a format) need not know the algorithm, nor the algorithm where they come from. `hash` and
consistent_hash are nginx's to the bit, so they take its CRC-32; with the size of the key, which the rehash needs. ip_hash is nginx's. maglev
has no such past and takes XXH64.

Sources: nginx/nginx src/http/modules/ngx_http_upstream_hash_module.c and _ip_hash_module.c; the xxHash specification 0.1.1.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport AF_INET, AF_INET6, inet_pton, memcpy
from fastlb.data_plane.types cimport (ADDRESS_TEXT_BYTES, ALGORITHM_CONSISTENT_HASH, ALGORITHM_HASH, ALGORITHM_IP_HASH, ALGORITHM_MAGLEV, ALGORITHM_USER)

cdef enum:
    CRC_POLYNOMIAL = 0xEDB88320     # CRC-32 of IEEE 802.3, reflected

cdef uint32_t crc_table[256]        # written at import only


def fill_crc_table():
    cdef uint32_t i, value, _bit
    for i in range(256):
        value = i
        for _bit in range(8):
            value = value >> 1 ^ (<uint32_t>CRC_POLYNOMIAL if value & 1 else 0)
        crc_table[i] = value


fill_crc_table()


cdef uint32_t crc32(uint32_t before, const char* data, size_t size) noexcept nogil:
    # Of what `before` is the CRC-32 of (0 = nothing), followed by these bytes.
    cdef:
        uint32_t value = ~before
        size_t i
    for i in range(size):
        value = crc_table[(value ^ <uint8_t>data[i]) & 255] ^ (value >> 8)
    return ~value


cdef uint32_t multiply(uint32_t a, uint32_t b) noexcept nogil:
    # Of polynomials over GF(2), modulo that of the CRC; the highest bit is x^0.
    cdef:
        uint32_t product = 0, bit = <uint32_t>1 << 31
    while bit:
        if a & bit:
            product ^= b
        b = b >> 1 ^ (<uint32_t>CRC_POLYNOMIAL if b & 1 else 0)
        bit >>= 1
    return product


cdef uint32_t crc32_joined(uint32_t first, uint32_t second, uint64_t second_size) noexcept nogil:
    # CRC-32 of two texts one behind the other, from those of each: first * x^(8 * size of the second) + second.
    cdef:
        uint32_t power = <uint32_t>1 << 31, square = <uint32_t>1 << 23      # 1 and x^8
    while second_size:
        if second_size & 1:
            power = multiply(power, square)
        square = multiply(square, square)
        second_size >>= 1
    return multiply(first, power) ^ second


# ---------------------------------------------------------------------------------------------------------------- XXH64
cdef extern from *:
    """
    #define FASTLB_XXH_1 0x9E3779B185EBCA87ull
    #define FASTLB_XXH_2 0xC2B2AE3D27D4EB4Full
    #define FASTLB_XXH_3 0x165667B19E3779F9ull
    #define FASTLB_XXH_4 0x85EBCA77C2B2AE63ull
    #define FASTLB_XXH_5 0x27D4EB2F165667C5ull
    #define fastlb_rotate_left(value, bits) ((value) << (bits) | (value) >> (64 - (bits)))
    """
    uint64_t PRIME_1 "FASTLB_XXH_1"
    uint64_t PRIME_2 "FASTLB_XXH_2"
    uint64_t PRIME_3 "FASTLB_XXH_3"
    uint64_t PRIME_4 "FASTLB_XXH_4"
    uint64_t PRIME_5 "FASTLB_XXH_5"
    uint64_t rotate_left "fastlb_rotate_left"(uint64_t value, int bits) nogil


cdef inline uint64_t read_long(const char* data) noexcept nogil:
    # Little-endian, as is every machine that fastlb is built for.
    cdef uint64_t value
    memcpy(&value, data, sizeof(value))
    return value


cdef inline uint64_t add_lane(uint64_t lane, uint64_t value) noexcept nogil:
    lane += value * PRIME_2
    return rotate_left(lane, 31) * PRIME_1


cdef inline uint64_t merge_lane(uint64_t hash, uint64_t lane) noexcept nogil:
    return (hash ^ add_lane(0, lane)) * PRIME_1 + PRIME_4


cdef uint64_t hash_bytes(const char* data, size_t size, uint64_t seed) noexcept nogil:
    # XXH64.
    cdef:
        const char* end = data + size
        uint64_t hash, a, b, c, d
        uint32_t word
    if size >= 32:
        a, b, c, d = seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1
        while end - data >= 32:
            a, b = add_lane(a, read_long(data)), add_lane(b, read_long(data + 8))
            c, d = add_lane(c, read_long(data + 16)), add_lane(d, read_long(data + 24))
            data += 32
        hash = rotate_left(a, 1) + rotate_left(b, 7) + rotate_left(c, 12) + rotate_left(d, 18)
        hash = merge_lane(merge_lane(merge_lane(merge_lane(hash, a), b), c), d)
    else:
        hash = seed + PRIME_5
    hash += size
    while end - data >= 8:
        hash ^= add_lane(0, read_long(data))
        hash = rotate_left(hash, 27) * PRIME_1 + PRIME_4
        data += 8
    if end - data >= 4:
        memcpy(&word, data, sizeof(word))
        hash ^= <uint64_t>word * PRIME_1
        hash = rotate_left(hash, 23) * PRIME_2 + PRIME_3
        data += 4
    while data != end:
        hash ^= <uint64_t><uint8_t>data[0] * PRIME_5
        hash = rotate_left(hash, 11) * PRIME_1
        data += 1
    hash = (hash ^ (hash >> 33)) * PRIME_2
    hash = (hash ^ (hash >> 29)) * PRIME_3
    return hash ^ (hash >> 32)


# ---------------------------------------------------------------------------------------------------------------- per algorithm
cdef uint64_t hash_packed_address(const uint8_t* address, uint32_t size) noexcept nogil:
    # For ip_hash: the first three octets of an IPv4 address (4 bytes), all of an IPv6 one (16). Never 0: the power is not.
    cdef:
        uint32_t i, hash = IP_HASH_START, sum = 0, power = 1
    for i in range(3 if size == 4 else size):
        hash = (hash * <uint32_t>IP_HASH_FACTOR + address[i]) % <uint32_t>IP_HASH_MODULUS
        sum = (sum * <uint32_t>IP_HASH_FACTOR + address[i]) % <uint32_t>IP_HASH_MODULUS
        power = power * <uint32_t>IP_HASH_FACTOR % <uint32_t>IP_HASH_MODULUS
    return hash | <uint64_t>sum << IP_HASH_SUM_SHIFT | <uint64_t>power << IP_HASH_POWER_SHIFT


cdef uint64_t hash_address(const char* text, uint32_t size) noexcept nogil:
    # As a client's address is kept. What is none (the client of a Unix socket) hashes like 0.0.0.0, as in nginx.
    cdef:
        uint8_t packed[16]
        char ended[ADDRESS_TEXT_BYTES]
    packed[0] = packed[1] = packed[2] = packed[3] = 0
    if size < ADDRESS_TEXT_BYTES:
        memcpy(ended, text, size)
        ended[size] = 0
        if inet_pton(AF_INET6, ended, packed) == 1:
            return hash_packed_address(packed, 16)
        inet_pton(AF_INET, ended, packed)
    return hash_packed_address(packed, 4)


cdef uint64_t hash_key(uint32_t algorithm, const char* data, uint32_t size) noexcept nogil:
    # 0 for a key without bytes, as a request has one that lacks the field or cookie which it is made of, and for algorithms without keys.
    cdef uint64_t hash
    if size == 0:
        return 0
    if algorithm == ALGORITHM_IP_HASH:
        return hash_address(data, size)
    if algorithm == ALGORITHM_HASH or algorithm == ALGORITHM_CONSISTENT_HASH:
        return crc32(0, data, size) | <uint64_t>size << 32
    if algorithm == ALGORITHM_MAGLEV or algorithm == ALGORITHM_USER:
        hash = hash_bytes(data, size, 0)
        return hash if hash != 0 else 1
    return 0
