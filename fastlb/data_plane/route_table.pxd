from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Snapshot

cdef uint32_t find_route(const Snapshot* snapshot, const char* host, uint32_t host_size, const char* path, uint32_t path_size) noexcept nogil
cdef uint32_t hash_host(const char* host, uint32_t size) noexcept nogil
