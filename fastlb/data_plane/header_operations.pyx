"""What a client says about itself, and whether it is believed: X-Forwarded-* and X-Request-Id count from trusted networks only.

Changes Connection.trusted, which is worked out once per connection and snapshot, and the engine's random numbers.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.random cimport next_random
from fastlb.data_plane.system cimport AF_INET, AF_INET6, likely, memcmp, memset
from fastlb.data_plane.types cimport Connection, Engine, Exchange, Head, ImageHeader, ImageNetwork
from fastlb.data_plane.writer cimport Writer, put

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* address)

cdef const char* HEX = b"0123456789abcdef"


cdef bint in_networks(const ImageHeader* header, const uint8_t* address, uint32_t least_bits) noexcept nogil:
    # `address` in 16 bytes; `least_bits` 96 for a mapped IPv4 address, which "::/0" must not hold.
    cdef:
        const ImageNetwork* network = <const ImageNetwork*>(<const char*>header + header.networks.offset)
        uint32_t _i, whole, rest
    for _i in range(header.networks.count):
        whole = network.prefix_bits >> 3
        rest = network.prefix_bits & 7
        if network.prefix_bits >= least_bits and memcmp(network.address, address, whole) == 0 and \
                (rest == 0 or (network.address[whole] ^ address[whole]) >> (8 - rest) == 0):
            return True
        network += 1
    return False


cdef bint is_trusted(Engine* engine, Exchange* exchange) noexcept nogil:
    # Whether the client's address lies in a trusted network of the exchange's snapshot; worked out once per connection and snapshot.
    cdef:
        const ImageHeader* header = exchange.snapshot.header
        Connection* client = exchange.client
        uint8_t address[16]
    if likely(header.networks.count == 0):
        return False
    if client.trusted_generation != header.generation:
        client.trusted_generation = header.generation
        memset(address, 0, 16)
        address[10] = address[11] = 0xFF
        if inet_pton(AF_INET, client.address, address + 12) == 1:
            client.trusted = in_networks(header, address, 96)
        else:
            client.trusted = inet_pton(AF_INET6, client.address, address) == 1 and in_networks(header, address, 0)
    return client.trusted


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
