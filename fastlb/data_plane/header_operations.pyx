"""Header edits: the compiled list of operations of a snapshot, applied while a request head is written.

Fields that stay are copied as they came, in runs: between two dropped fields the bytes of the received head are one piece.
Which fields an operation replaces is one bit test a field (ImageHeader.operation_headers); a snapshot without operations
tests nothing. What a client claims about itself (X-Forwarded-*, X-Request-Id) is believed from trusted networks only.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.random cimport next_random
from fastlb.data_plane.system cimport AF_INET, AF_INET6, likely, memcmp, memset
from fastlb.data_plane.types cimport (FIELD_DROPPED, OPERATION_APPEND, OPERATION_KEEP_OR_SET, REQUEST_ID_BYTES, SOURCE_CLIENT_ADDRESS,
                                      SOURCE_HOST, SOURCE_LITERAL, SOURCE_REQUEST_ID, SOURCE_SCHEME, Connection, Engine, Exchange, Head,
                                      HeaderField, ImageHeader, ImageHeaderOperation, ImageNetwork)
from fastlb.data_plane.writer cimport Writer, put

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* address)

cdef const char* HEX = b"0123456789abcdef"


cdef void copy_fields(Writer* out, const Head* head, uint64_t except_ids) noexcept nogil:
    # Every field of `head` but those flagged as dropped and those of `except_ids` (bit per HeaderId; never bit 0).
    cdef:
        const HeaderField* field = &head.fields[0]
        const char* run = head.data + head.fields_start
        uint32_t _i
    for _i in range(head.n_fields):
        if field.flags & FIELD_DROPPED or (except_ids >> field.id) & 1:
            if head.data + field.name > run:
                put(out, run, <size_t>(head.data + field.name - run))
            run = head.data + field.end
        field += 1
    if head.data + head.size - 2 > run:
        put(out, run, <size_t>(head.data + head.size - 2 - run))


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


cdef void put_source(Engine* engine, Exchange* exchange, const Head* head, const ImageHeaderOperation* operation, Writer* out) noexcept nogil:
    if operation.source == SOURCE_CLIENT_ADDRESS:
        put(out, exchange.client.address, exchange.client.address_size)
    elif operation.source == SOURCE_SCHEME:
        put(out, b"http", 4)
    elif operation.source == SOURCE_HOST:
        put(out, head.data + head.host, head.host_size)
    elif operation.source == SOURCE_REQUEST_ID:
        # One id per exchange, the same for all its attempts.
        if exchange.request_id[0] == 0:
            make_request_id(engine, exchange.request_id)
        put(out, exchange.request_id, REQUEST_ID_BYTES)
    elif operation.source == SOURCE_LITERAL:
        put(out, <const char*>exchange.snapshot.image + operation.literal.offset, operation.literal.size)


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


cdef void apply_operations(Engine* engine, Exchange* exchange, const Head* head, Writer* out) noexcept nogil:
    # Writes the fields of the snapshot's operation list; copy_fields has left out what they replace.
    cdef:
        const ImageHeader* header = exchange.snapshot.header
        const ImageHeaderOperation* operation = <const ImageHeaderOperation*>(exchange.snapshot.image + header.operations.offset)
        uint32_t _i
        bint received
        bint trusted = head.seen & header.operation_headers != 0 and is_trusted(engine, exchange)
    for _i in range(header.operations.count):
        received = trusted and (head.seen >> operation.header_id) & 1
        if operation.source == SOURCE_HOST and head.host_size == 0 and not received:
            operation += 1                      # HTTP/1.0 without Host: nothing to say
            continue
        put(out, exchange.snapshot.image + operation.name.offset, operation.name.size)
        put(out, b": ", 2)
        if received and operation.kind == OPERATION_APPEND:
            if put_received(head, operation.header_id, out, False):
                put(out, b", ", 2)
            put_source(engine, exchange, head, operation, out)
        elif not (received and operation.kind == OPERATION_KEEP_OR_SET and put_received(head, operation.header_id, out, True)):
            put_source(engine, exchange, head, operation, out)
        put(out, b"\r\n", 2)
        operation += 1
