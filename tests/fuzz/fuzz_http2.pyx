"""Bytes into a live HTTP/2 session. Input: one byte, how many of those behind it are written at a time (0: all), and frames behind the preface.

Promises: when the client has left nothing of it is left, no session, stream, exchange or buffer; and what is held meanwhile is bounded.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.connection cimport adopt_client
from fastlb.data_plane.connection_table cimport open_connection
from fastlb.data_plane.engine cimport engine_pump
from fastlb.data_plane.shared_table cimport claim_row
from fastlb.data_plane.transport cimport watch
from fastlb.data_plane.types cimport IO_WRITABLE, KIND_CLIENT, NODE_ROW, Connection, Engine, Listener
from tests.fuzz.expect cimport expect
from tests.fuzz.plane cimport open_plane

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK
    int socketpair(int domain, int type, int protocol, int* fds)

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* data, size_t size)
    ssize_t read(int fd, void* data, size_t size)
    int close(int fd)

cdef enum:
    MOST_PUMPS = 64                 # a client that is gone is closed within some turns of the ready list

cdef Engine* engine
cdef Listener listener
cdef const char* PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        Connection* client
        char sink[65536]
        int fds[2]
        size_t at = 1, piece
        uint32_t _i
    if size < 1 or size > 0x10000:
        return 0
    expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0, b"there are sockets")
    claim_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW, 0)
    client = open_connection(&engine.connections, fds[0], KIND_CLIENT)
    client.transport = engine.plain
    client.io = IO_WRITABLE
    adopt_client(engine, client, &listener)
    expect(watch(engine, client), b"the engine watches")
    engine.http2_client_codec.adopt(engine, client, PREFACE, 24)
    piece = data[0] if data[0] else size
    while at < size:
        write(fds[1], data + at, piece if piece < size - at else size - at)
        at += piece
        engine_pump(engine, 0)
        while read(fds[1], sink, sizeof(sink)) > 0:
            pass
    expect(engine.n_streams <= listener.settings.http2_streams, b"no more streams than are allowed")
    close(fds[1])
    for _i in range(MOST_PUMPS):
        engine_pump(engine, 0)
        if engine.n_clients == 0:
            break
    expect(engine.n_clients == 0 and engine.n_streams == 0, b"a client that has left is gone")
    expect(engine.counters.http2_sessions_opened == engine.counters.http2_sessions_closed
           and engine.counters.http2_streams_opened == engine.counters.http2_streams_closed
           and engine.counters.exchanges_opened == engine.counters.exchanges_closed, b"all that was opened is closed")
    expect(engine.buffers.taken == engine.buffers.returned, b"every buffer is given back")
    return 0


address = <size_t><void*>fuzz_one


def prepare():
    global engine
    from tests.fuzz.images import make_image

    engine = open_plane(make_image())
    if engine == NULL:
        raise MemoryError
    listener.references = 1
    listener.fd = -1
    listener.settings.head_timeout_ms = listener.settings.body_timeout_ms = 1000
    listener.settings.idle_timeout_ms = listener.settings.write_timeout_ms = 1000
    listener.settings.head.max_bytes = 8192
    listener.settings.head.max_target_bytes = 4096
    listener.settings.head.max_fields = 50
    listener.settings.http2_streams = 16
    listener.settings.http2_window_bytes = 65535
    listener.settings.http2_connection_window_bytes = 131072


prepare()


def make_seeds():
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    basic = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    post = [(":method", "POST"), *basic[1:]]
    for steps in (
        [(basic, None, True)],
        [(post, b"x" * 300, True), (basic, None, True)],
        [(post, b"x", False)],
        [([*basic, ("te", "gzip")], None, True)],
        [([(":method", "CONNECT"), (":protocol", "websocket"), *basic[1:]], b"hello", True)],
        [([*basic, ("cookie", "a=1"), ("cookie", "b=2"), ("content-length", "0")], None, True)],
    ):
        client = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
        client.initiate_connection()
        for fields, body, ends in steps:
            number = client.get_next_available_stream_id()
            client.send_headers(number, fields, end_stream=body is None)
            if body is not None:
                client.send_data(number, body, end_stream=ends)
        client.ping(b"12345678")
        client.reset_stream(1)
        frames = client.data_to_send()[24:]
        yield b"\0" + frames
        yield b"\7" + frames
