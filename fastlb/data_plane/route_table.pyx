"""The route of a request: host (exact, then the longest wildcard, then any), and in it the longest prefix of the normalised path.

A host whose routes do not match the path falls through to the next less specific one, so that "any host, /" catches what a
host's own prefixes leave. Reads the snapshot's image only; the table is built by SnapshotWriter.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.system cimport memcmp
from fastlb.data_plane.types cimport NO_INDEX, ImageHeader, ImageHost, ImageLocation, Snapshot

cdef enum:
    MAX_HOST = 255                  # a longer name is no DNS name and matches only "any"


cdef uint32_t hash_host(const char* host, uint32_t size) noexcept nogil:
    # FNV-1a, of the lower-case name.
    cdef:
        uint32_t value = 0x811C9DC5
        uint32_t i
    for i in range(size):
        value = (value ^ <uint8_t>host[i]) * <uint32_t>0x01000193
    return value


cdef uint32_t find_host(const Snapshot* snapshot, const char* name, uint32_t size, uint32_t wildcard) noexcept nogil:
    # Index of this very name, NO_INDEX if it is not configured.
    cdef:
        const ImageHeader* header = snapshot.header
        const uint32_t* slots = <const uint32_t*>(snapshot.image + header.host_slots.offset)
        const ImageHost* hosts = <const ImageHost*>(snapshot.image + header.hosts.offset)
        const ImageHost* host
        uint32_t mask = header.host_slots.count - 1
        uint32_t hash = hash_host(name, size)
        uint32_t at = hash & mask
    while slots[at] != 0:
        host = &hosts[slots[at] - 1]
        if host.hash == hash and host.wildcard == wildcard and host.name.size == size \
                and memcmp(snapshot.image + host.name.offset, name, size) == 0:
            return slots[at] - 1
        at = (at + 1) & mask
    return NO_INDEX


cdef uint32_t match_path(const Snapshot* snapshot, uint32_t host_index, const char* path, uint32_t size) noexcept nogil:
    # The first match is the longest: locations of a host are sorted so.
    cdef:
        const ImageHost* host = <const ImageHost*>(snapshot.image + snapshot.header.hosts.offset) + host_index
        const ImageLocation* location = <const ImageLocation*>(snapshot.image + snapshot.header.locations.offset) + host.locations.offset
        uint32_t _i
    for _i in range(host.locations.count):
        if location.prefix.size <= size and memcmp(snapshot.image + location.prefix.offset, path, location.prefix.size) == 0:
            return location.route
        location += 1
    return NO_INDEX


cdef uint32_t find_route(const Snapshot* snapshot, const char* host, uint32_t host_size, const char* path, uint32_t path_size) noexcept nogil:
    # Index of the route for a request, NO_INDEX = none. `host` as the client sent it, with or without port.
    cdef:
        const ImageHeader* header = snapshot.header
        char name[MAX_HOST + 1]
        uint32_t size = 0, i, found, route
    if header.host_slots.count:
        while size < host_size and size < MAX_HOST and host[size] != c":":
            if host[size] == c"[":              # an IPv6 literal is matched with its brackets
                while size < host_size and size < MAX_HOST and host[size] != c"]":
                    name[size] = host[size] | 0x20 if c"A" <= host[size] <= c"Z" else host[size]
                    size += 1
                if size == host_size or size == MAX_HOST:
                    break
            name[size] = host[size] | 0x20 if c"A" <= host[size] <= c"Z" else host[size]
            size += 1
        if size < MAX_HOST:
            if size and name[size - 1] == c".":
                size -= 1
            found = find_host(snapshot, name, size, 0)
            if found != <uint32_t>NO_INDEX:
                route = match_path(snapshot, found, path, path_size)
                if route != <uint32_t>NO_INDEX:
                    return route
            if header.has_wildcards:
                # "*.example.com" is stored as ".example.com" and matches any longer name that ends so.
                for i in range(1, size):
                    if name[i] != c".":
                        continue
                    found = find_host(snapshot, name + i, size - i, 1)
                    if found != <uint32_t>NO_INDEX:
                        route = match_path(snapshot, found, path, path_size)
                        if route != <uint32_t>NO_INDEX:
                            return route
    if header.any_host != <uint32_t>NO_INDEX:
        return match_path(snapshot, header.any_host, path, path_size)
    return NO_INDEX
