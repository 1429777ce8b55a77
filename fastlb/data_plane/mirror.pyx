"""Mirroring: a copy of a request goes to a backend of another pool as well, and what that answers is read and dropped.

A mirror is an ordinary exchange with a client that is nobody: a connection of KIND_MIRROR has no descriptor, takes whatever it is sent and
never has anything to read, since its exchange holds the whole request from the start. So pools, claims, time-outs, idle connections and
header operations are those of any exchange, and the exchange that was mirrored knows nothing of it.

Here is which requests are mirrored, and the copying; mirror_client.pyx has what such a client does in its exchange. State: Engine.n_mirrors
and mirror_bytes, given back by close_connection. Never mirrored: an upgrade, a request that is not whole or was not kept whole, and what
passes the worker's bounds: a mirror is dropped (and counted) rather than waited for.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.buffer cimport append_bytes
from fastlb.data_plane.connection cimport close_connection, stand_for
from fastlb.data_plane.connection_table cimport open_connection
from fastlb.data_plane.exchange_pool cimport take_exchange
from fastlb.data_plane.trust cimport make_request_id
from fastlb.data_plane.random cimport next_random
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.relay cimport relay_open
from fastlb.data_plane.system cimport memcpy
from fastlb.data_plane.types cimport (IO_AGAIN, IO_WRITABLE, IO_WRITE_CLOSED, KIND_MIRROR, MAX_MIRROR_BYTES, MAX_MIRRORS, RELAY_OFF,
                                      REQUEST_ID_BYTES, STATE_HEAD, X_BODY_DONE, X_HTTP_1_0, X_IDEMPOTENT, X_IS_HEAD, X_MIRROR,
                                      X_REPLAYABLE, X_RESEND, X_UPGRADE, Buffer, Connection, Engine, Exchange, Head, Transport)


cdef void choose_mirror(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # Its route mirrors: draws whether this request is one of those. Copied at once, or when its body is here.
    if exchange.flags & X_UPGRADE:
        return
    if next_random(engine) >> 33 >= exchange.route.mirror_share:
        return
    if exchange.flags & X_BODY_DONE:
        open_mirror(engine, exchange)
    else:
        exchange.flags |= X_MIRROR


cdef inline uint32_t held(const Buffer* buffer) noexcept nogil:
    return 0 if buffer == NULL else buffer.end - buffer.start


cdef bint copy_buffer(Engine* engine, Buffer** to, const Buffer* source) noexcept nogil:
    return held(source) == 0 or append_bytes(&engine.buffers, to, source.data + source.start, held(source))


cdef Connection* open_nobody(Engine* engine, const Connection* client, uint32_t size) noexcept nogil:
    # A client for the copy of a request of `size` bytes, which backends are told is this one. NULL: too many, or out of memory.
    cdef Connection* connection
    if engine.n_mirrors >= MAX_MIRRORS or engine.mirror_bytes + size > MAX_MIRROR_BYTES:
        return NULL
    connection = open_connection(&engine.connections, -1, KIND_MIRROR)
    if connection == NULL:
        return NULL
    connection.state = STATE_HEAD
    connection.io = IO_WRITABLE
    connection.transport = engine.mirror_transport
    connection.codec = engine.mirror_codec
    stand_for(connection, client)
    if connection.proxy != NULL:
        connection.proxy.references += 1        # it may outlive the client
    connection.drained_bytes = size
    engine.n_mirrors += 1
    engine.mirror_bytes += size
    engine.counters.mirrors_opened += 1
    return connection


cdef void open_mirror(Engine* engine, Exchange* exchange) noexcept nogil:
    # The whole request has come: copies it, if it was kept. The copy begins when those whom the events of this batch concern have had
    # their turn (mirror_client.pyx: mirror_ready).
    cdef:
        Connection* connection
        Exchange* copy
        uint32_t body_size = held(exchange.replay)
    exchange.flags &= ~<uint32_t>X_MIRROR
    if exchange.request_head == NULL or body_size != exchange.up.moved:
        engine.counters.mirrors_skipped += 1    # answered already, or larger than what its pool keeps
        return
    connection = open_nobody(engine, exchange.client, held(exchange.request_head) + held(exchange.target) + body_size)
    if connection == NULL:
        engine.counters.mirrors_skipped += 1
        return
    copy = take_exchange(engine)
    if copy == NULL:
        engine.counters.mirrors_failed += 1
        close_connection(engine, connection, False)
        return
    copy.client = connection
    connection.exchange = copy
    copy.snapshot = exchange.snapshot
    copy.snapshot.references += 1
    copy.route = exchange.route
    copy.method = exchange.method
    # All of it is in the exchange, as if an earlier attempt had been sent it: X_RESEND.
    copy.flags = exchange.flags & (X_HTTP_1_0 | X_IS_HEAD | X_IDEMPOTENT) | X_REPLAYABLE | X_BODY_DONE | X_RESEND
    if exchange.request_id[0] == 0:
        make_request_id(engine, exchange.request_id)    # the same for both, so that their answers can be compared
    memcpy(copy.request_id, exchange.request_id, REQUEST_ID_BYTES)
    relay_open(&copy.up, copy, connection, NULL, exchange.up.source_framing, exchange.up.sink_framing, 0)
    copy.up.state = RELAY_OFF
    copy.up.source_ended = True
    copy.up.moved = body_size
    if not (copy_buffer(engine, &copy.request_head, exchange.request_head) and copy_buffer(engine, &copy.replay, exchange.replay)
            and copy_buffer(engine, &copy.target, exchange.target) and copy_buffer(engine, &copy.matched, exchange.matched)
            and copy_buffer(engine, &copy.up.chunk.trailers, exchange.up.chunk.trailers)):
        copy.flags |= X_MIRROR                  # not whole: mirror_ready ends it
    list_ready(engine, connection)


# ---------------------------------------------------------------------------------------------------------- nobody's transport
cdef ssize_t mirror_receive(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    return IO_AGAIN


cdef ssize_t mirror_send(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    return <ssize_t>size


cdef ssize_t mirror_send_parts(Engine* engine, Connection* connection, const char** parts, const size_t* sizes,
                               int n_parts) noexcept nogil:
    cdef:
        size_t size = 0
        int i
    for i in range(n_parts):
        size += sizes[i]
    return <ssize_t>size


cdef int mirror_shut_write(Engine* engine, Connection* connection) noexcept nogil:
    connection.io |= IO_WRITE_CLOSED
    return 0


cdef Transport MIRROR
MIRROR.receive = mirror_receive
MIRROR.send = mirror_send
MIRROR.send_parts = mirror_send_parts
MIRROR.shut_write = mirror_shut_write
MIRROR.can_splice = False


cdef const Transport* mirror_transport() noexcept nogil:
    return &MIRROR
