"""What a client says about itself, and whether it is believed: X-Forwarded-* and X-Request-Id count from trusted networks only.

Changes Connection.trusted, which is worked out once per connection and snapshot, and the engine's random numbers.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.network cimport is_in_networks
from fastlb.data_plane.random cimport next_random
from fastlb.data_plane.system cimport likely
from fastlb.data_plane.types cimport Connection, Engine, Exchange, Head, ImageHeader, ImageNetwork
from fastlb.data_plane.writer cimport Writer, put

cdef const char* HEX = b"0123456789abcdef"


cdef bint is_trusted(Engine* engine, Exchange* exchange) noexcept nogil:
    # Whether the client's address lies in a trusted network of the exchange's snapshot; worked out once per connection and snapshot.
    cdef:
        const ImageHeader* header = exchange.snapshot.header
        Connection* client = exchange.client
    if likely(header.networks.count == 0):
        return False
    if client.peer.trusted_generation != header.generation:
        client.peer.trusted_generation = header.generation
        client.peer.trusted = is_in_networks(client, <const ImageNetwork*>(<const char*>header + header.networks.offset), header.networks.count)
    return client.peer.trusted


cdef void make_request_id(Engine* engine, char* id) noexcept nogil:
    # 16 random bytes in hexadecimal.
    cdef:
        uint64_t value
        uint32_t half, i
    for half in range(2):
        value = next_random(engine)
        for i in range(16):
            id[half * 16 + i] = HEX[value & 15]
            value >>= 4


cdef uint32_t put_received(const Head* head, uint32_t id, Writer* out, bint only_first) noexcept nogil:
    # The values the client sent under this name, joined by ", ". Returns how many there were.
    cdef uint32_t i, n = 0
    for i in range(head.n_fields):
        if head.fields[i].id != id or head.fields[i].value_size == 0:
            continue
        if n:
            if only_first:
                break
            put(out, b", ", 2)
        put(out, head.data + head.fields[i].value, head.fields[i].value_size)
        n += 1
    return n
