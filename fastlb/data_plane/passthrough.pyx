"""TLS that is passed on as it is: a session's route is chosen by the name and the protocols that its client asks for in its first message.

The bytes stay in Connection.input and are relayed, whole and untouched, when there is a backend. At most one ClientHello and what came with its
last piece waits there, for no longer than the listener's time for a head. What is not understood is refused, never guessed: a backend that read
another name would be one that this client should not have come to.

Of each name the image has a run of choices, which ends with those for any name: the first one whose protocols the client offers is taken.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.access_log cimport log_server_name
from fastlb.data_plane.buffer cimport append_bytes
from fastlb.data_plane.client_hello cimport (HELLO_BAD_NAME, HELLO_PARSED, ClientHello, offers_protocol, parse_client_hello)
from fastlb.data_plane.failure cimport (FAILURE_CLIENT_RESET, FAILURE_OUT_OF_MEMORY, FAILURE_TLS_CLOSED, FAILURE_TLS_PROTOCOL, FAILURE_TLS_UNKNOWN_NAME)
from fastlb.data_plane.meters cimport count_client_in
from fastlb.data_plane.name_table cimport find_host
from fastlb.data_plane.types cimport FIRST_READ_BYTES, IO_AGAIN, IO_READABLE, NO_INDEX, Connection, Engine, Exchange, ImageHeader, ImageName, ImageSniChoice

# A plain-text alert: fatal, unrecognized_name (RFC 6066 section 3), in a record as any version understands it.
cdef const char* UNRECOGNIZED_NAME = b"\x15\x03\x01\x00\x02\x02\x70"


# ---------------------------------------------------------------------------------------------------------- clients
cdef uint32_t choose_route(Engine* engine, const Connection* client, const ClientHello* hello) noexcept nogil:
    # Index of its route; NO_INDEX where no choice fits.
    cdef:
        const char* image = engine.snapshot.image
        const ImageHeader* header = engine.snapshot.header
        const ImageSniChoice* choice
        const char* protocol
        uint32_t at, first
    first = find_host(image, <const ImageName*>(image + header.names.offset) + client.listener.sni_names.offset, client.listener.sni_names.count,
                      hello.server_name, hello.server_name_size)
    if first == <uint32_t>NO_INDEX:
        first = client.listener.sni_others
    if first == <uint32_t>NO_INDEX:
        return NO_INDEX
    choice = <const ImageSniChoice*>(image + header.sni_choices.offset) + first
    while True:
        if choice.alpn.size == 0:
            return choice.route
        protocol = image + choice.alpn.offset
        at = 0
        while at < choice.alpn.size:
            if offers_protocol(hello, protocol + at + 1, <uint8_t>protocol[at]):
                return choice.route
            at += 1 + <uint8_t>protocol[at]
        if choice.is_last:
            return NO_INDEX
        choice += 1


cdef int read_hello(Engine* engine, Connection* client, uint32_t* route) noexcept nogil:
    # Reads on in the client's first message. HELLO_ROUTED with *route; HELLO_WAITS; HELLO_LEFT; or -FAILURE_*.
    cdef:
        ClientHello hello
        uint32_t size
        ssize_t n
        int result
    while client.io & IO_READABLE:
        n = client.transport.receive(engine, client, engine.read_buffer, FIRST_READ_BYTES)
        if n == IO_AGAIN:
            return HELLO_WAITS
        if n == 0 and client.input == NULL:
            return HELLO_LEFT
        if n <= 0:
            return -<int>(FAILURE_TLS_CLOSED if n == 0 else FAILURE_CLIENT_RESET)
        engine.counters.client_bytes_in += <uint64_t>n
        count_client_in(engine, client, <uint64_t>n)
        if not append_bytes(&engine.buffers, &client.input, engine.read_buffer, <uint32_t>n):
            return -<int>FAILURE_OUT_OF_MEMORY
        size = client.input.end - client.input.start
        if size < client.drained_bytes:
            continue                            # parsing again would find it incomplete again: single bytes must not cost more than they are
        result = parse_client_hello(client.input.data + client.input.start, size, &hello)
        if result > 0:
            client.drained_bytes = size + <uint32_t>result
            continue
        if result != HELLO_PARSED:
            return -<int>(FAILURE_TLS_UNKNOWN_NAME if result == HELLO_BAD_NAME else FAILURE_TLS_PROTOCOL)
        route[0] = choose_route(engine, client, &hello)
        return HELLO_ROUTED if route[0] != <uint32_t>NO_INDEX else -<int>FAILURE_TLS_UNKNOWN_NAME
    return HELLO_WAITS


cdef void refuse_name(Engine* engine, Connection* client) noexcept nogil:
    # Tells the client why, as it would hear it from a server; what the socket does not take is not worth waiting for.
    client.transport.send(engine, client, UNRECOGNIZED_NAME, 7)


cdef void log_hello(Engine* engine, Exchange* exchange) noexcept nogil:
    # Of an exchange with a log: the name that its client asks for, if that has come.
    cdef:
        ClientHello hello
        const Connection* client = exchange.client
    if client.input != NULL \
            and parse_client_hello(client.input.data + client.input.start, client.input.end - client.input.start, &hello) == HELLO_PARSED:
        log_server_name(engine, exchange, hello.server_name, hello.server_name_size)
