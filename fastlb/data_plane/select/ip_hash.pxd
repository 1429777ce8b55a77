"""IP hash: by the client's address, as nginx's: an IPv4 address counts by its first three octets, so that neighbours share a backend.

Weights are honoured. After a backend that cannot be picked the address is hashed on, at most 20 times; so only its own clients move.
Source: nginx/nginx ngx_http_upstream_ip_hash_module.c, which then goes on round robin; here it is the next one, the same in all workers.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.select.by_weight cimport find_by_weight
from fastlb.data_plane.select.candidates cimport find_candidate, is_candidate
from fastlb.data_plane.select.key cimport next_ip_hash
from fastlb.data_plane.select.round_robin cimport pick_round_robin
from fastlb.data_plane.types cimport NO_BACKEND, Group

cdef enum:
    IP_HASH_TRIES = 21              # nginx's: the first and 20 more


cdef inline int32_t pick_ip_hash(Group* group, uint64_t key, const int32_t* tried, uint32_t n_tried) noexcept nogil:
    # Moves nothing, with a key. O(1) or O(log n_backends) while backends are eligible. Index in the group, or NO_BACKEND.
    cdef uint32_t _i, at = 0, hash = <uint32_t>key & <uint32_t>0xFFFF
    if key == 0:
        return pick_round_robin(group, tried, n_tried)
    if group.total_weight == 0:
        return NO_BACKEND
    for _i in range(IP_HASH_TRIES):
        at = find_by_weight(group, hash % group.total_weight)
        if is_candidate(group, at, tried, n_tried):
            return <int32_t>at
        hash = next_ip_hash(key, hash)
    return find_candidate(group, at, tried, n_tried)
