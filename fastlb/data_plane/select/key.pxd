from libc.stdint cimport uint8_t, uint32_t, uint64_t

# Keys of algorithms that hash, in the forms that they need. 0 = no key: such a request has its turn as in round robin.
cdef uint32_t crc32(uint32_t before, const char* data, size_t size) noexcept nogil
cdef uint32_t crc32_joined(uint32_t first, uint32_t second, uint64_t second_size) noexcept nogil
cdef uint64_t hash_bytes(const char* data, size_t size, uint64_t seed) noexcept nogil
cdef uint64_t hash_packed_address(const uint8_t* address, uint32_t size) noexcept nogil
cdef uint64_t hash_key(uint32_t algorithm, const char* data, uint32_t size) noexcept nogil

cdef enum:
    # nginx's ip_hash: hash = hash * 113 + octet, modulo 6271, for each octet; again over them after a backend that cannot be picked.
    IP_HASH_FACTOR = 113
    IP_HASH_MODULUS = 6271
    IP_HASH_START = 89
    # hash_packed_address packs what goes on from a hash to the next: hash * power + sum. So the address itself is not needed.
    IP_HASH_SUM_SHIFT = 16
    IP_HASH_POWER_SHIFT = 32


cdef inline uint32_t next_ip_hash(uint64_t key, uint32_t hash) noexcept nogil:
    # One more round over the octets of the address that the key is of.
    return (hash * <uint32_t>(key >> IP_HASH_POWER_SHIFT) + (<uint32_t>(key >> IP_HASH_SUM_SHIFT) & <uint32_t>0xFFFF)) % <uint32_t>IP_HASH_MODULUS
