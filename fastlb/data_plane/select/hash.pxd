"""Hash of a key, as nginx's `hash` without `consistent`: the CRC-32 of the key, modulo the sum of the weights. A backend that is added or
taken out moves most keys; consistent_hash and maglev do not.

After a backend that cannot be picked the key is hashed again with a counter in front, and the hashes add up, at most 20 times; so only its
own keys move. Source: nginx/nginx ngx_http_upstream_hash_module.c, which then goes on round robin; here it is the next one, the same in all workers.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.select.by_weight cimport find_by_weight
from fastlb.data_plane.select.candidates cimport find_candidate, is_candidate
from fastlb.data_plane.select.key cimport crc32, crc32_joined
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.types cimport NO_BACKEND, Group

cdef enum:
    HASH_TRIES = 21                 # nginx's: the first and 20 more


cdef inline uint32_t rehash(uint64_t key, uint32_t count) noexcept nogil:
    # CRC-32 of the counter (1 to 20) in decimal digits with the key behind it.
    cdef:
        char digits[2]
        uint32_t n = 1
    if count >= 10:
        digits[0] = <char>(48 + count // 10)
        n = 2
    digits[n - 1] = <char>(48 + count % 10)
    return crc32_joined(crc32(0, digits, n), <uint32_t>key, key >> 32)


cdef inline int32_t pick_hash(Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves nothing, with a key. O(1) or O(log n_backends) while backends are eligible. Index in the group, or NO_BACKEND.
    cdef uint32_t i, at = 0, hash = <uint32_t>key, sum = 0
    if key == 0:
        return pick_round_robin(group, tried, n_tried)
    if group.total_weight == 0:
        return NO_BACKEND
    for i in range(HASH_TRIES):
        if i > 0:
            hash = rehash(key, i)
        sum += hash >> 16 & <uint32_t>0x7FFF
        at = find_by_weight(group, sum % group.total_weight)
        if is_candidate(group, at, tried, n_tried):
            return <int32_t>at
    return find_candidate(group, at, tried, n_tried)
