"""Bytes from a backend into a live HTTP/2 session with two attempts. Input: one byte, how many of those behind it are written at a time (0: all),
and frames.

Promises: every attempt comes to an end; when clients and backend have left nothing of them is left, no session, stream, exchange or buffer.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, strlen

from fastlb.data_plane.connection cimport adopt_client
from fastlb.data_plane.connection_table cimport open_connection
from fastlb.data_plane.engine cimport engine_pump
from fastlb.data_plane.shared_table cimport claim_row
from fastlb.data_plane.transport cimport watch
from fastlb.data_plane.types cimport IO_WRITABLE, KIND_CLIENT, NODE_ROW, PROTOCOL_HTTP2, Backend, Connection, Engine, ImageBackend, Listener
from tests.fuzz.expect cimport expect
from tests.fuzz.plane cimport open_plane

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK
    int socketpair(int domain, int type, int protocol, int* fds)
    int accept4(int fd, void* address, void* size, int flags)

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* data, size_t size)
    ssize_t read(int fd, void* data, size_t size)
    int close(int fd)

cdef enum:
    CLIENTS = 2
    MOST_PUMPS = 64                 # who is gone is closed within some turns of the ready list

cdef Engine* engine
cdef Listener listener
cdef int listening = -1
cdef const char* REQUESTS[CLIENTS]
REQUESTS[0] = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
REQUESTS[1] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


cdef int open_client(uint32_t number) noexcept nogil:
    # A client that has sent its request; its end.
    cdef:
        int fds[2]
        Connection* client
    expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0, b"there are sockets")
    claim_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW, 0)
    client = open_connection(&engine.connections, fds[0], KIND_CLIENT)
    client.transport = engine.plain
    client.io = IO_WRITABLE
    adopt_client(engine, client, &listener)
    expect(watch(engine, client), b"the engine watches")
    write(fds[1], REQUESTS[number], strlen(REQUESTS[number]))
    return fds[1]


cdef void take_all(int fd) noexcept nogil:
    cdef char sink[65536]
    while read(fd, sink, sizeof(sink)) > 0:
        pass


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        int clients[CLIENTS]
        int backend = -1, extra
        size_t at = 1, piece
        uint32_t i, _i
    if size < 1 or size > 0x10000:
        return 0
    for i in range(CLIENTS):
        clients[i] = open_client(i)
    for _i in range(MOST_PUMPS):
        engine_pump(engine, 0)
        backend = accept4(listening, NULL, NULL, SOCK_NONBLOCK)
        if backend >= 0:
            break
    expect(backend >= 0, b"the engine connects")
    piece = data[0] if data[0] else size
    while at < size:
        write(backend, data + at, piece if piece < size - at else size - at)
        at += piece
        engine_pump(engine, 0)
        take_all(backend)
        for i in range(CLIENTS):
            take_all(clients[i])
    expect(engine.n_backend_streams <= CLIENTS, b"no more streams than attempts")
    close(backend)
    for i in range(CLIENTS):
        close(clients[i])
    for _i in range(MOST_PUMPS):
        engine_pump(engine, 0)
        extra = accept4(listening, NULL, NULL, SOCK_NONBLOCK)      # attempts that were made again
        if extra >= 0:
            close(extra)
        if engine.n_clients == 0 and engine.counters.backend_sessions_opened == engine.counters.backend_sessions_closed:
            break
    expect(engine.n_clients == 0 and engine.n_backend_streams == 0, b"clients that have left are gone")
    expect(engine.counters.backend_sessions_opened == engine.counters.backend_sessions_closed
           and engine.counters.backend_streams_opened == engine.counters.backend_streams_closed
           and engine.counters.attempts_opened == engine.counters.attempts_closed
           and engine.counters.exchanges_opened == engine.counters.exchanges_closed, b"all that was opened is closed")
    expect(engine.buffers.taken == engine.buffers.returned, b"every buffer is given back")
    return 0


cdef void settle_row(Backend* row, const ImageBackend* image) noexcept nogil:
    # As a commit does.
    row.address_size = image.address_size
    memcpy(row.address, image.address, sizeof(row.address))
    row.max_idle = 8
    row.idle_timeout_ms = 1000
    row.protocol = PROTOCOL_HTTP2


address = <size_t><void*>fuzz_one


def prepare():
    global engine, listening
    import socket

    from tests.fuzz.images import make_http2_image

    backend = socket.create_server(("127.0.0.1", 0))
    backend.setblocking(False)
    engine = open_plane(make_http2_image(backend.getsockname()[1]))
    listening = backend.detach()
    if engine == NULL:
        raise MemoryError
    settle_row(engine.snapshot.backends[0].row, <const ImageBackend*>(engine.snapshot.image + engine.snapshot.header.backends.offset))
    listener.references = 1
    listener.fd = -1
    listener.codec = listener.opening = engine.client_codec
    listener.settings.head_timeout_ms = listener.settings.body_timeout_ms = 1000
    listener.settings.idle_timeout_ms = listener.settings.write_timeout_ms = 1000
    listener.settings.head.max_bytes = 8192
    listener.settings.head.max_target_bytes = 4096
    listener.settings.head.max_fields = 50


prepare()


def make_seeds():
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    ok = [(":status", "200"), ("x", "y")]
    basic = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    for steps in (
        [(1, ok, b"hello", None)],
        [(1, [(":status", "103"), ("link", "x")], None, None), (3, [*ok, ("content-length", "2")], b"ok", None), (1, ok, b"1", None)],
        [(3, ok, b"x" * 300, [("grpc-status", "0")]), (1, [(":status", "204")], None, None)],
        [(1, [*ok, ("content-length", "9")], b"short", None), (3, [("x", "no status")], b"x", None)],
    ):
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        server = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False))
        server.initiate_connection()
        for _ in range(2):
            client.send_headers(client.get_next_available_stream_id(), basic)
        server.receive_data(client.data_to_send())
        for number, fields, body, trailers in steps:
            interim = fields[0][1].startswith("1")
            server.send_headers(number, fields, end_stream=body is None and trailers is None and not interim)
            if body is not None:
                server.send_data(number, body, end_stream=trailers is None)
            if trailers is not None:
                server.send_headers(number, trailers, end_stream=True)
        server.ping(b"12345678")
        server.reset_stream(3)
        server.close_connection(last_stream_id=1)
        frames = server.data_to_send()
        yield b"\0" + frames
        yield b"\7" + frames
