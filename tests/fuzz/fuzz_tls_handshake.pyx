"""Handshakes of TLS. Input: how much of the rest comes in one piece (its first byte), then what a client sends before it closes.

Promises: however the bytes are cut, the connection ends with its socket, and nothing of it is left.
"""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc

from fastlb.data_plane.connection cimport adopt_client, close_connection
from fastlb.data_plane.connection_table cimport empty_graveyard, open_connection
from fastlb.data_plane.exchange cimport close_exchange, free_ended_exchanges
from fastlb.data_plane.ready_list cimport take_ready
from fastlb.data_plane.shared_table cimport claim_row
from fastlb.data_plane.tls cimport set_listener_tls
from fastlb.data_plane.types cimport (IO_HALF_CLOSED, IO_READABLE, IO_WRITABLE, KIND_CLIENT, NODE_ROW, STATE_CLOSED, Connection, Engine,
                                      ImageListener, Listener)
from tests.fuzz.expect cimport expect
from tests.fuzz.plane cimport open_plane

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, MSG_NOSIGNAL
    int socketpair(int family, int kind, int protocol, int* pair)
    ssize_t send(int fd, const void* data, size_t size, int flags)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef Engine* engine
cdef Listener* listener


cdef void take_turns(Engine* engine, Connection* client) noexcept nogil:
    # Each is a batch of its own: a batch has few steps of handshakes.
    cdef Connection* connection = client if client.state != STATE_CLOSED else NULL
    while connection != NULL or engine.ready_head != NULL:
        if connection == NULL:
            connection = take_ready(engine)
        engine.counters.batches += 1
        connection.codec.ready(engine, connection)
        connection = NULL


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        Connection* client
        int pair[2]
        size_t at = 1, piece
    if size < 2 or size > 16384:
        return 0
    expect(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0, b"socketpair")
    client = open_connection(&engine.connections, pair[0], KIND_CLIENT)
    client.transport = engine.plain
    client.io = IO_WRITABLE
    expect(claim_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW, 0), b"the node has no cap")
    adopt_client(engine, client, listener)
    while at < size and client.state != STATE_CLOSED:
        piece = min(size - at, <size_t>data[0] + 1)
        send(pair[1], data + at, piece, MSG_NOSIGNAL)
        at += piece
        client.io |= IO_READABLE
        take_turns(engine, client)
    close(pair[1])
    if client.state != STATE_CLOSED:
        client.io |= IO_READABLE | IO_HALF_CLOSED
        take_turns(engine, client)
    if client.state != STATE_CLOSED:            # it was answered, and lingers
        if client.exchange != NULL:
            close_exchange(engine, client.exchange)
        close_connection(engine, client, False)
    free_ended_exchanges(engine)
    empty_graveyard(&engine.connections)
    expect(engine.counters.tls_opened == engine.counters.tls_closed, b"what TLS keeps is freed")
    expect(engine.counters.clients_opened == engine.counters.clients_closed, b"the client is gone")
    expect(engine.buffers.taken == engine.buffers.returned, b"blocks are given back")
    expect(engine.tls.start == engine.tls.end and engine.tls.n_sending == 0, b"the scratch is empty between calls")
    return 0


def make_seeds():
    """What Python's own client says first, whole and in small pieces, and what is no TLS."""
    import ssl

    seeds = [b"\xffGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00\x16\x03\x01\x00\x05hello"]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        outgoing = ssl.MemoryBIO()
        try:
            context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a.example").do_handshake()
        except ssl.SSLWantReadError:
            hello = outgoing.read()
        seeds += [b"\xff" + hello, b"\x10" + hello]
    return seeds


def _open():
    global engine, listener
    import os

    from fastlb import _core
    from tests.fuzz.images import LIMITS, TIMES, WAITS
    from tests.support.issue import issue

    cdef int fd
    writer = _core.SnapshotWriter(1)
    number = writer.add_listener("web", **WAITS, **LIMITS)
    writer.add_certificate(*issue("a.example"))
    writer.add_certificate(*issue("a.example", kind="rsa"))
    writer.set_tls(number, identities=[[0, 1]], names=[("a.example", 0)], default=0, challenges=[("b.example", 0)],
                   alpn=[b"http/1.1"], client_auth="optional", client_ca=issue("a.example")[0])
    writer.set_ticket_keys([bytes(80)])
    writer.add_pool("api", algorithm="round_robin", attempts=1, replay_limit_bytes=0, max_idle=0, **TIMES)
    fd = writer.finish()
    engine = open_plane(fd)
    os.close(fd)
    if engine == NULL:
        raise MemoryError
    listener = <Listener*>calloc(1, sizeof(Listener))
    listener.references = 1
    listener.settings = (<const ImageListener*>(engine.snapshot.image + engine.snapshot.header.listeners.offset)).settings
    set_listener_tls(&listener.tls, engine.snapshot, 0)
    listener.codec = engine.client_codec
    listener.opening = engine.tls_codec


_open()
address = <size_t><void*>fuzz_one
