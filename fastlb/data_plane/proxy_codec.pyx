"""The codecs of connections that begin with a header of the PROXY protocol: of clients, whose header is waited for and believed, and of backends,
which are told who the client is. Both hand over then.

    accepted -> (its sender may send headers) -> the header is here, whole -> TLS or the listener's own codec, as for whoever the header names

Who may send headers its listener says, and decides at once: everybody else is refused, or speaks for itself. From those who may, a header has to
come, within one deadline, and nothing is done before it is whole. It is looked at in the socket's own memory and taken from there to its last
byte only, so that what follows it is found where any client's first bytes are.

What a header says of the client takes the place of what the socket says, before anybody has asked: address and port, and whether it speaks TLS.
What else it says is kept in ProxyFacts, if anything.

A backend of a pool that sends headers gets one as soon as its connection stands, before TLS. That connection is for one exchange, and never idle:
whoever came next would be taken for its first client.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc

from fastlb.data_plane.attempt cimport backend_codec_of, connect_failure
from fastlb.data_plane.client_hello cimport HELLO_PARSED, ClientHello, parse_client_hello
from fastlb.data_plane.connection cimport begin_codec, close_connection, limit_idle, set_deadline
from fastlb.data_plane.exchange cimport fail_attempt
from fastlb.data_plane.failure cimport FAILURE_CONNECT_FAILED, FAILURE_PROXY_HEADER, FAILURE_PROXY_SENDER, FAILURE_PROXY_TIMEOUT
from fastlb.data_plane.hedge cimport face_attempt
from fastlb.data_plane.http1 cimport http1_backend_codec
from fastlb.data_plane.meters cimport count_client_in, count_failure
from fastlb.data_plane.network cimport is_in_networks
from fastlb.data_plane.proxy_protocol cimport (PROXY_HAS_CERTIFICATE, PROXY_HAS_TLS, PROXY_INTERNET, PROXY_PARSED, PROXY_UNIX, ProxyHeader,
                                               parse_proxy_header, write_proxy_header)
from fastlb.data_plane.system cimport AF_INET6, AF_UNIX, htons, memcmp, memcpy, memset, sockaddr_in6, sockaddr_storage
from fastlb.data_plane.tls cimport agreed_protocol, tls_fact
from fastlb.data_plane.transport cimport connect_result, local_address, note_peer, peek, send_first, write_address
from fastlb.data_plane.trust cimport make_request_id
from fastlb.data_plane.types cimport (IO_ERROR, IO_SINGLE, IO_WRITABLE, KIND_MIRROR, KIND_STREAM, PROXY_ALPN, PROXY_AUTHORITY, PROXY_SENDS_ALPN,
                                      PROXY_SENDS_AUTHORITY, PROXY_SENDS_TLS, PROXY_SENDS_UNIQUE_ID, PROXY_UNIQUE_ID, REQUEST_ID_BYTES, STATE_CONNECTING,
                                      TLS_CIPHER, TLS_CLIENT_SUBJECT, TLS_CLIENT_VERIFY, TLS_SERVER_NAME, TLS_VERSION, X_SESSION, Buffer, Exchange, Http2Stream)
from fastlb.data_plane.types cimport (ADDRESS_TEXT_BYTES, IO_AGAIN, IO_HALF_CLOSED, IO_READABLE, MAX_PROXY_HEADER_BYTES, PROXY_CLIENT_NAME, PROXY_CLIENT_VERIFY,
                                      PROXY_DESTINATION, PROXY_DESTINATION_PORT, PROXY_FACTS, PROXY_FROM_UNIX, PROXY_OTHERS_PLAIN, PROXY_SENDER,
                                      PROXY_TLS_CIPHER, PROXY_TLS_VERSION, STATE_HANDSHAKE, STATE_IDLE, X_CAME_BY_TLS, Codec, Connection, Engine,
                                      Listener, ProxyFacts)
from fastlb.data_plane.writer cimport Writer, put, put_number

cdef enum:
    MAX_NAME_BYTES = 256            # of a certificate's client; X.520 has 64. At least MAX_HOST_BYTES


# ---------------------------------------------------------------------------------------------------------- facts
cdef void begin_fact(ProxyFacts* facts, Writer* out, uint32_t fact) noexcept nogil:
    facts.start[fact] = <uint16_t>(out.at - facts.text)


cdef void end_fact(ProxyFacts* facts, Writer* out, uint32_t fact) noexcept nogil:
    facts.size[fact] = <uint16_t>(out.at - facts.text - facts.start[fact])


cdef void put_fact(ProxyFacts* facts, Writer* out, uint32_t fact, const char* text, uint32_t size) noexcept nogil:
    begin_fact(facts, out, fact)
    put(out, text, size)
    end_fact(facts, out, fact)


cdef void put_verify(ProxyFacts* facts, Writer* out, const ProxyHeader* header) noexcept nogil:
    # As of a client's certificate that we see ourselves; why it is not good has a number only.
    begin_fact(facts, out, PROXY_CLIENT_VERIFY)
    if not header.tls & PROXY_HAS_CERTIFICATE:
        put(out, b"NONE", 4)
    elif header.verify == 0:
        put(out, b"SUCCESS", 7)
    else:
        put(out, b"FAILED:", 7)
        put_number(out, header.verify)
    end_fact(facts, out, PROXY_CLIENT_VERIFY)


cdef ProxyFacts* make_facts(const Connection* sender, const ProxyHeader* header) noexcept nogil:
    # With one reference, the caller's. NULL: out of memory. All of them fit: what is no part of the header is two addresses and three numbers.
    cdef:
        ProxyFacts facts
        ProxyFacts* made
        Writer out
        char address[ADDRESS_TEXT_BYTES]
        size_t size
        uint32_t i
    memset(&facts, 0, sizeof(facts) - sizeof(facts.text))
    facts.references = 1
    out.at = facts.text
    out.end = facts.text + sizeof(facts.text)
    out.overflow = False
    put_fact(&facts, &out, PROXY_SENDER, sender.peer.address, sender.address_size)
    if header.client == PROXY_INTERNET:
        facts.has_destination = True
        facts.destination_port = header.destination_port
        memcpy(facts.destination, header.destination, sizeof(facts.destination))
        put_fact(&facts, &out, PROXY_DESTINATION, address, write_address(header.destination, address))
        begin_fact(&facts, &out, PROXY_DESTINATION_PORT)
        put_number(&out, header.destination_port)
        end_fact(&facts, &out, PROXY_DESTINATION_PORT)
    if header.tls & PROXY_HAS_TLS:
        put_verify(&facts, &out, header)
    for i in range(PROXY_FACTS):
        if header.said[i].size != 0 and (header.tls & PROXY_HAS_TLS or not PROXY_TLS_VERSION <= i <= <uint32_t>PROXY_CLIENT_NAME):
            put_fact(&facts, &out, i, <const char*>header.said[i].at, header.said[i].size)
    size = <size_t>(out.at - <char*>&facts)
    made = <ProxyFacts*>malloc(size)
    if made != NULL:
        memcpy(made, &facts, size)
    return made


cdef void drop_proxy_facts(ProxyFacts** facts) noexcept nogil:
    # One reference less.
    facts[0].references -= 1
    if facts[0].references == 0:
        free(facts[0])
    facts[0] = NULL


cdef uint32_t proxy_fact(const Connection* client, uint32_t fact, const char** text) noexcept nogil:
    # The size of a ProxyFact of this client, and where it stands; 0: there is none. Valid until the connection closes.
    if client.proxy == NULL:
        return 0
    text[0] = client.proxy.text + client.proxy.start[fact]
    return client.proxy.size[fact]


# ---------------------------------------------------------------------------------------------------------- the header
cdef void fail_header(Engine* engine, Connection* client, uint32_t failure) noexcept nogil:
    engine.counters.reasons[failure] += 1
    count_failure(engine, client.listener.meter, failure)
    close_connection(engine, client, False)


cdef bint believe_header(Connection* client, const ProxyHeader* header) noexcept nogil:
    # From here on the client is who the header says. False: out of memory.
    cdef:
        sockaddr_storage address
        sockaddr_in6* internet = <sockaddr_in6*>&address
    client.proxy = make_facts(client, header)
    if client.proxy == NULL:
        return False
    if header.client == PROXY_INTERNET:
        memset(&address, 0, sizeof(sockaddr_in6))
        internet.sin6_family = AF_INET6
        internet.sin6_port = htons(header.source_port)
        memcpy(&internet.sin6_addr, header.source, sizeof(header.source))
        note_peer(client, &address)
    elif header.client == PROXY_UNIX:
        address.ss_family = AF_UNIX
        client.peer.ip_version = 0
        client.peer_port = 0
        note_peer(client, &address)
    if header.tls & PROXY_HAS_TLS:
        client.peer.exchange_flags |= X_CAME_BY_TLS
    return True


cdef void go_on(Engine* engine, Connection* client) noexcept nogil:
    # It begins as a client of a listener without headers does.
    begin_codec(engine, client, engine.tls_codec if client.listener.tls != NULL else client.listener.codec)
    if engine.draining and client.state == STATE_IDLE:
        limit_idle(engine, client)


cdef void header_ready(Engine* engine, Connection* client) noexcept nogil:
    cdef:
        ProxyHeader header
        char* data = engine.read_buffer
        ssize_t n
        int result
    if not client.io & IO_READABLE:
        return
    n = peek(engine, client, data, MAX_PROXY_HEADER_BYTES)
    if n <= 0:
        if n != IO_AGAIN:
            close_connection(engine, client, False)     # nothing was said: somebody looked whether we are here
        return
    result = parse_proxy_header(data, <uint32_t>n, &header)
    if result > 0 and not client.io & IO_HALF_CLOSED:
        client.io &= ~<uint32_t>IO_READABLE             # until more comes
        return
    if result != PROXY_PARSED:
        fail_header(engine, client, FAILURE_PROXY_HEADER)
        return
    if client.transport.receive(engine, client, data, header.size) != <ssize_t>header.size or not believe_header(client, &header):
        close_connection(engine, client, True)
        return
    engine.counters.client_bytes_in += header.size
    count_client_in(engine, client, header.size)
    if n == <ssize_t>header.size and not client.io & IO_HALF_CLOSED:
        client.io &= ~<uint32_t>IO_READABLE             # that was all that there was
    go_on(engine, client)
    if client.io & IO_READABLE or client.codec == engine.session_codec:
        client.codec.ready(engine, client)              # TCP sessions begin at once


cdef void header_timed_out(Engine* engine, Connection* client) noexcept nogil:
    fail_header(engine, client, FAILURE_PROXY_TIMEOUT)


cdef void refuse_sender(Engine* engine, Connection* client) noexcept nogil:
    fail_header(engine, client, FAILURE_PROXY_SENDER)


cdef void begin_header(Engine* engine, Connection* client, const char* data, uint32_t size) noexcept nogil:
    # A client that has just been accepted: what is known of it is who might send a header.
    cdef:
        const Listener* listener = client.listener
        bint sends
    if client.peer.ip_version == 0:
        sends = listener.settings.proxy_flags & PROXY_FROM_UNIX != 0
    else:
        sends = is_in_networks(client, listener.senders, listener.n_senders)
    if not sends and listener.settings.proxy_flags & PROXY_OTHERS_PLAIN:
        go_on(engine, client)
        return
    client.codec = &HEADER if sends else &REFUSAL
    client.state = STATE_HANDSHAKE
    set_deadline(engine, client, engine.now_ms + listener.settings.proxy_timeout_ms)


# ---------------------------------------------------------------------------------------------------------- backends
cdef inline uint32_t digit(char byte) noexcept nogil:
    # 16: it is no hexadecimal one.
    if c"0" <= byte <= c"9":
        return byte - c"0"
    byte |= 0x20
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else 16


cdef uint32_t find_common_name(const char* subject, uint32_t size, char* name) noexcept nogil:
    # The common name in a subject as RFC 2253 writes one, without its escapes, in `name` of MAX_NAME_BYTES. Returns its size, 0: there is none.
    cdef:
        uint32_t at = 0, n = 0
        bint found
        char byte
    while at < size:
        found = size - at > 3 and memcmp(subject + at, b"CN=", 3) == 0
        if found:
            at += 3
        while at < size and subject[at] != c"," and subject[at] != c"+":
            byte = subject[at]
            if byte == c"\\" and at + 2 < size and digit(subject[at + 1]) < 16 and digit(subject[at + 2]) < 16:
                byte = <char>(digit(subject[at + 1]) << 4 | digit(subject[at + 2]))
                at += 2
            elif byte == c"\\" and at + 1 < size:
                at += 1
                byte = subject[at]
            if found and n < MAX_NAME_BYTES:
                name[n] = byte
                n += 1
            at += 1
        if found:
            return n
        at += 1
    return 0


cdef void say(ProxyHeader* header, uint32_t fact, const char* text, uint32_t size) noexcept nogil:
    header.said[fact].at = <const uint8_t*>text
    header.said[fact].size = size


cdef void say_known(ProxyHeader* header, uint32_t fact, Connection* client, uint32_t of_tls) noexcept nogil:
    # What its own TLS with us tells, else what its sender told.
    cdef:
        const char* text = NULL
        uint32_t size = tls_fact(client, of_tls, &text)
    if size == 0:
        size = proxy_fact(client, fact, &text)
    say(header, fact, text, size)


cdef void say_certificate(ProxyHeader* header, const char* verify, uint32_t size) noexcept nogil:
    # As facts have it: NONE, SUCCESS, or FAILED: and why, a number if that comes from a sender.
    cdef:
        uint32_t number = 0, i
    if verify[0] == c"N":
        return
    header.tls |= PROXY_HAS_CERTIFICATE
    if verify[0] == c"F":
        for i in range(7, size):
            number = number * 10 + digit(verify[i]) if digit(verify[i]) < 10 else 0
        header.verify = number if number else 1


cdef void say_tls(ProxyHeader* header, Connection* client, char* name) noexcept nogil:
    cdef:
        const char* text = NULL
        uint32_t size = tls_fact(client, TLS_CLIENT_VERIFY, &text)
    if size:
        header.tls = PROXY_HAS_TLS
        say_certificate(header, text, size)
        size = tls_fact(client, TLS_CLIENT_SUBJECT, &text)
        say(header, PROXY_CLIENT_NAME, name, find_common_name(text, size, name))
    else:
        size = proxy_fact(client, PROXY_CLIENT_VERIFY, &text)
        if size == 0:
            return
        header.tls = PROXY_HAS_TLS
        say_certificate(header, text, size)
        size = proxy_fact(client, PROXY_CLIENT_NAME, &text)
        say(header, PROXY_CLIENT_NAME, text, size)
    say_known(header, PROXY_TLS_VERSION, client, TLS_VERSION)
    say_known(header, PROXY_TLS_CIPHER, client, TLS_CIPHER)


cdef void say_unique_id(Engine* engine, Exchange* exchange, ProxyHeader* header) noexcept nogil:
    # The number that its sender has given the connection, else that of the exchange.
    cdef:
        const char* text = NULL
        uint32_t size = proxy_fact(exchange.client, PROXY_UNIQUE_ID, &text)
    if size == 0:
        if exchange.request_id[0] == 0:
            make_request_id(engine, exchange.request_id)
        text = exchange.request_id
        size = REQUEST_ID_BYTES
    say(header, PROXY_UNIQUE_ID, text, size)


cdef void say_hello_name(ProxyHeader* header, const Connection* client, char* name) noexcept nogil:
    # The name in a ClientHello that is passed on (passthrough.pyx), in `name` of MAX_NAME_BYTES.
    cdef:
        ClientHello hello
        const Buffer* input = client.input
    if input != NULL and parse_client_hello(input.data + input.start, input.end - input.start, &hello) == HELLO_PARSED:
        memcpy(name, hello.server_name, hello.server_name_size)
        say(header, PROXY_AUTHORITY, name, hello.server_name_size)


cdef int descriptor_of(const Connection* client) noexcept nogil:
    # The socket that this client came by; of a mirror, whose client may be gone, that of its listener.
    if client.kind == KIND_STREAM:
        return (<const Http2Stream*>client.http2).session.connection.fd
    if client.kind == KIND_MIRROR:
        return client.listener.fd if client.listener.connection != NULL else -1
    return client.fd


cdef void describe_client(Engine* engine, Exchange* exchange, uint32_t flags, ProxyHeader* header, char* name) noexcept nogil:
    # What a pool with these ProxyHeaderFlags tells. It borrows from the client, from the exchange, and from `name`, which has MAX_NAME_BYTES.
    cdef:
        Connection* client = exchange.client
        const char* text = NULL
        uint32_t size
    memset(header, 0, sizeof(ProxyHeader))
    if client.peer.ip_version == 0:
        return                                  # of a unix socket
    header.client = PROXY_INTERNET
    memcpy(header.source, client.peer.ip, sizeof(header.source))
    header.source_port = client.peer_port
    if client.proxy != NULL and client.proxy.has_destination:
        memcpy(header.destination, client.proxy.destination, sizeof(header.destination))
        header.destination_port = client.proxy.destination_port
    elif not local_address(descriptor_of(client), header.destination, &header.destination_port) and client.peer.ip_version == 4:
        header.destination[10] = header.destination[11] = 0xFF
    if flags & PROXY_SENDS_ALPN:
        if exchange.flags & X_SESSION:
            size = agreed_protocol(client, &text)
            if size == 0:
                size = proxy_fact(client, PROXY_ALPN, &text)
            say(header, PROXY_ALPN, text, size)
        else:
            say(header, PROXY_ALPN, b"http/1.1", 8)     # what follows, whatever the client speaks
    if flags & PROXY_SENDS_AUTHORITY:
        say_known(header, PROXY_AUTHORITY, client, TLS_SERVER_NAME)
        if client.listener.chooses_by_name:
            say_hello_name(header, client, name)        # no TLS of ours, so `name` is free
    if flags & PROXY_SENDS_UNIQUE_ID:
        say_unique_id(engine, exchange, header)
    if flags & PROXY_SENDS_TLS:
        say_tls(header, client, name)


cdef uint32_t send_header(Engine* engine, Exchange* exchange, Connection* connection) noexcept nogil:
    # On a connection that stands and has sent nothing. 0 or a FAILURE_*.
    cdef:
        ProxyHeader header
        char name[MAX_NAME_BYTES]
        char data[MAX_PROXY_HEADER_BYTES]
        uint32_t flags = exchange.pool.image.proxy_header
        uint32_t size
        # The request, or a ClientHello, follows at once. A session's client may have nothing to say.
        bint more = not exchange.flags & X_SESSION or connection.tls != NULL or exchange.client.input != NULL
    describe_client(engine, exchange, flags, &header, name)
    size = write_proxy_header(&header, flags, data, sizeof(data))
    if size == 0:                               # what the client's sender told is too long to be told again
        memset(header.said, 0, sizeof(header.said))
        size = write_proxy_header(&header, flags, data, sizeof(data))
    if send_first(engine, connection, data, size, more) != <ssize_t>size:
        return FAILURE_CONNECT_FAILED           # into the empty buffer of a socket: it is gone already
    engine.counters.backend_bytes_out += size
    connection.backend.meter.bytes_out += size
    return 0


cdef uint32_t put_header_first(Engine* engine, Exchange* exchange, Connection* connection) noexcept nogil:
    # A connection to a backend that has just been begun. 0 or a FAILURE_*.
    connection.io |= IO_SINGLE
    if connection.state == STATE_CONNECTING:
        connection.codec = engine.proxy_backend_codec
        return 0
    return send_header(engine, exchange, connection)    # unix sockets connect at once


cdef void backend_ready(Engine* engine, Connection* connection) noexcept nogil:
    cdef:
        Exchange* exchange = connection.exchange
        uint32_t failure
        int error
    if not connection.io & (IO_WRITABLE | IO_ERROR):
        return
    face_attempt(exchange, connection.attempt)
    error = connect_result(connection)
    failure = connect_failure(error) if error else send_header(engine, exchange, connection)
    if failure:
        fail_attempt(engine, exchange, failure)
        return
    connection.codec = engine.tls_backend_codec if connection.tls != NULL else backend_codec_of(engine, exchange)
    connection.codec.ready(engine, connection)          # which sees that it is connected


cdef Codec BACKEND_HEADER
BACKEND_HEADER.ready = backend_ready
BACKEND_HEADER.timed_out = http1_backend_codec().timed_out      # as it is connecting still


cdef const Codec* proxy_backend_codec() noexcept nogil:
    return &BACKEND_HEADER


cdef Codec HEADER
HEADER.ready = header_ready
HEADER.timed_out = header_timed_out
HEADER.adopt = begin_header

cdef Codec REFUSAL                      # of whoever may not send a header: its first event ends it
REFUSAL.ready = refuse_sender
REFUSAL.timed_out = refuse_sender


cdef const Codec* proxy_codec() noexcept nogil:
    return &HEADER
