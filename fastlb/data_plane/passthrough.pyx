"""Routes of sessions by what their clients ask of TLS: the name and the protocols in the first message of one that is passed on as it is, the name
and the protocol that was agreed on where it ends here.

Of TLS that is passed on the bytes stay in Connection.input and are relayed, whole and untouched, when there is a backend. At most one ClientHello and what came with its
last piece waits there, for no longer than the listener's time for a head. What is not understood is refused, never guessed: a backend that read
another name would be one that this client should not have come to.

Of each name the image has a run of choices, which ends with those for any name: the first one whose protocols the client offers is taken.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.access_log cimport log_server_name
from fastlb.data_plane.buffer cimport append_bytes
from fastlb.data_plane.client_hello cimport (HELLO_BAD_NAME, HELLO_PARSED, ClientHello, has_protocol, parse_client_hello)
from fastlb.data_plane.failure cimport (FAILURE_CLIENT_RESET, FAILURE_OUT_OF_MEMORY, FAILURE_TLS_CLOSED, FAILURE_TLS_PROTOCOL, FAILURE_TLS_UNKNOWN_NAME)
from fastlb.data_plane.meters cimport count_client_in
from fastlb.data_plane.name_table cimport find_host
from fastlb.data_plane.system cimport memcpy
from fastlb.data_plane.tls cimport agreed_protocol, tls_fact
from fastlb.data_plane.types cimport FIRST_READ_BYTES, IO_AGAIN, IO_READABLE, NO_INDEX, TLS_SERVER_NAME, Connection, Engine, Exchange, ImageHeader, ImageName, ImageSniChoice

# A plain-text alert: fatal, unrecognized_name (RFC 6066 section 3), in a record as any version understands it.
cdef const char* UNRECOGNIZED_NAME = b"\x15\x03\x01\x00\x02\x02\x70"


# ---------------------------------------------------------------------------------------------------------- clients
cdef uint32_t choose_route(Engine* engine, const Connection* client, const char* name, uint32_t name_size, const uint8_t* protocols,
                           uint32_t protocols_size) noexcept nogil:
    # Index of the route of a client that asks for this name and for one of these protocols, a list as ALPN has it; NO_INDEX where no choice fits.
    cdef:
        const char* image = engine.snapshot.image
        const ImageHeader* header = engine.snapshot.header
        const ImageSniChoice* choice
        const char* protocol
        uint32_t at, first
    first = find_host(image, <const ImageName*>(image + header.names.offset) + client.listener.sni_names.offset, client.listener.sni_names.count,
                      name, name_size)
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
            if has_protocol(protocols, protocols_size, protocol + at + 1, <uint8_t>protocol[at]):
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
        route[0] = choose_route(engine, client, hello.server_name, hello.server_name_size, hello.alpn, hello.alpn_size)
        return HELLO_ROUTED if route[0] != <uint32_t>NO_INDEX else -<int>FAILURE_TLS_UNKNOWN_NAME
    return HELLO_WAITS


cdef int read_agreement(Engine* engine, Connection* client, uint32_t* route) noexcept nogil:
    # As read_hello, of a client whose TLS ends here and stands.
    cdef:
        char protocol[256]
        const char* text = NULL
        const char* name = NULL
        uint32_t size = agreed_protocol(client, &text), name_size = tls_fact(client, TLS_SERVER_NAME, &name)
    if size:
        protocol[0] = <char>size
        memcpy(protocol + 1, text, size)
    route[0] = choose_route(engine, client, name, name_size, <const uint8_t*>protocol, size + 1 if size else 0)
    return HELLO_ROUTED if route[0] != <uint32_t>NO_INDEX else -<int>FAILURE_TLS_UNKNOWN_NAME


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
