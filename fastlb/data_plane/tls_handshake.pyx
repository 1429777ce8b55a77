"""The codecs of connections whose TLS is not agreed upon yet: they bring the handshake on, and hand over to HTTP when hands are shaken.

A handshake has one deadline, from accept on. What it dies of is counted by its reason (failure.pxd); no exchange begins before it is over, but
for a client that speaks plain HTTP here: that one is told so. A backend's handshake is a part of connecting to it, and of the time for that.

A step of a handshake takes as long as a hundred requests. So a batch has few of them: who comes when they are used up, or when others wait already,
is put off, on the ready list, and the next batch looks at everybody else's events first.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.access_log cimport log_partial_head
from fastlb.data_plane.attempt cimport backend_codec_of, connect_failure
from fastlb.data_plane.connection cimport close_connection, limit_idle, set_deadline
from fastlb.data_plane.early_data cimport follow_handshake, take_early_requests
from fastlb.data_plane.exchange cimport connected, fail_attempt, open_exchange, refuse
from fastlb.data_plane.failure cimport FAILURE_PLAIN_HTTP, FAILURE_TLS_PROTOCOL, FAILURE_TLS_TIMEOUT
from fastlb.data_plane.hedge cimport face_attempt
from fastlb.data_plane.http1 cimport http1_backend_codec
from fastlb.data_plane.meters cimport count_client_in, count_failure, read_clock_us
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport likely, unlikely
from fastlb.data_plane.tls cimport TLS_CAME_EARLY, TLS_SAW_HTTP, TLS_STANDS, TLS_WAITS, greet_backend, chose_http2, shake_hands
from fastlb.data_plane.transport cimport connect_result
from fastlb.data_plane.types cimport (IO_ERROR, IO_PUT_OFF, IO_READABLE, IO_READY_LISTED, IO_WRITABLE, STATE_EXCHANGE, STATE_HANDSHAKE, STATE_IDLE, Codec,
                                      Connection, Engine, Exchange)


cdef enum:
    STEPS_PER_BATCH = 4             # 0.2 ms each with P-256 and 0.8 with RSA-2048: as long as others wait for


cdef inline bint has_turn(Engine* engine, Connection* connection) noexcept nogil:
    # Whether this connection may make a step now. If not it is listed, and called again.
    if engine.tls.batch != engine.counters.batches:
        engine.tls.batch = engine.counters.batches
        engine.tls.n_steps = 0
    if connection.io & IO_READY_LISTED:
        return False                            # more came while it waits
    if engine.tls.n_steps == STEPS_PER_BATCH or (engine.ready_head != NULL and not connection.io & IO_PUT_OFF):
        connection.io |= IO_PUT_OFF
        list_ready(engine, connection)
        return False
    connection.io &= ~<uint32_t>IO_PUT_OFF
    engine.tls.n_steps += 1
    return True


cdef void fail_handshake(Engine* engine, Connection* client, uint32_t failure) noexcept nogil:
    engine.counters.reasons[failure] += 1
    count_failure(engine, client.listener.meter, failure)
    close_connection(engine, client, False)


cdef void begin_client(Engine* engine, Connection* client) noexcept nogil:
    # From here on it is a client as any other, whose first request may be here already. A TCP session begins at once.
    client.codec = client.listener.codec
    client.state = STATE_IDLE
    if unlikely(client.codec == engine.session_codec):
        client.codec.ready(engine, client)
        return
    if chose_http2(client):
        engine.http2_client_codec.adopt(engine, client, NULL, 0)
        if unlikely(client.tls != NULL and client.tls.passes_early):
            follow_handshake(client)
        return
    set_deadline(engine, client, engine.now_ms + client.listener.settings.head_timeout_ms)
    if unlikely(engine.draining):
        limit_idle(engine, client)
    if client.io & IO_READABLE:
        client.codec.ready(engine, client)


cdef void refuse_plain(Engine* engine, Connection* client) noexcept nogil:
    # A 400 that says what is wrong, in plain HTTP as the client speaks it; its bytes are only logged. Where we do not speak HTTP it is no TLS.
    cdef:
        Exchange* exchange
        char* data = engine.tls.received + engine.tls.start
        uint32_t size = engine.tls.end - engine.tls.start
    engine.tls.start = engine.tls.end = 0
    engine.counters.client_bytes_in += size
    count_client_in(engine, client, size)
    client.codec = client.listener.codec
    if client.codec == engine.session_codec:
        fail_handshake(engine, client, FAILURE_TLS_PROTOCOL)
        return
    exchange = open_exchange(engine, client)
    if exchange == NULL:
        close_connection(engine, client, True)
        return
    if exchange.log != NULL:
        exchange.log.started_ms = engine.now_ms
        log_partial_head(engine, exchange, data, size)
    refuse(engine, exchange, FAILURE_PLAIN_HTTP)


cdef void handshake_ready(Engine* engine, Connection* client) noexcept nogil:
    cdef int result
    if unlikely(client.tls == NULL and client.listener.tls == NULL):
        client.codec = client.listener.codec    # a reload took TLS from this listener before the client had said anything
        client.state = STATE_IDLE
        client.codec.ready(engine, client)
        return
    if not client.io & IO_READABLE and client.tls == NULL:
        return                                  # room to write, and nothing to say yet
    if not has_turn(engine, client):
        return
    result = shake_hands(engine, client)
    # Public keys take up to milliseconds, which the next one's time must not begin with.
    engine.clock_us = read_clock_us()
    engine.now_ms = engine.clock_us // 1000
    if result == TLS_STANDS:
        if client.tls.is_challenge:
            close_connection(engine, client, False)     # to see the certificate was all it came for
        elif likely(client.tls.early == NULL) or take_early_requests(engine, client, True):
            begin_client(engine, client)
    elif unlikely(result == TLS_CAME_EARLY) and take_early_requests(engine, client, False):
        begin_client(engine, client)
    elif result == TLS_SAW_HTTP:
        refuse_plain(engine, client)
    elif result < 0:
        fail_handshake(engine, client, <uint32_t>-result)
    elif client.state == STATE_HANDSHAKE and client.io & IO_READABLE and (client.tls == NULL or client.tls.held == NULL):
        list_ready(engine, client)              # more, or its end, came in the same event


cdef void begin_handshake(Engine* engine, Connection* client, const char* data, uint32_t size) noexcept nogil:
    client.state = STATE_HANDSHAKE
    set_deadline(engine, client, engine.now_ms + client.listener.tls.handshake_timeout_ms)


cdef void handshake_timed_out(Engine* engine, Connection* client) noexcept nogil:
    fail_handshake(engine, client, FAILURE_TLS_TIMEOUT)


# ---------------------------------------------------------------------------------------------------------- backends
cdef void backend_handshake_ready(Engine* engine, Connection* connection) noexcept nogil:
    cdef:
        Exchange* exchange = connection.exchange
        int result, error
    face_attempt(exchange, connection.attempt)
    if not connection.tls.connected:
        if not connection.io & (IO_WRITABLE | IO_ERROR):
            return
        error = connect_result(connection)
        if error:
            fail_attempt(engine, exchange, connect_failure(error))
            return
        connection.tls.connected = True
    if not has_turn(engine, connection):
        return
    result = greet_backend(engine, connection)
    engine.clock_us = read_clock_us()
    engine.now_ms = engine.clock_us // 1000
    if result == TLS_STANDS:
        connection.codec = backend_codec_of(engine, exchange)
        connected(engine, exchange)
        if connection.state == STATE_EXCHANGE and connection.io & IO_READABLE:
            list_ready(engine, connection)      # its end, or an answer before the question, came in the same event
    elif result != TLS_WAITS:
        fail_attempt(engine, exchange, <uint32_t>-result)
    elif connection.io & IO_READABLE and connection.tls.held == NULL:
        list_ready(engine, connection)


cdef Codec BACKEND_HANDSHAKE
BACKEND_HANDSHAKE.ready = backend_handshake_ready
BACKEND_HANDSHAKE.timed_out = http1_backend_codec().timed_out       # as it is connecting still


cdef const Codec* tls_backend_codec() noexcept nogil:
    return &BACKEND_HANDSHAKE


cdef Codec HANDSHAKE
HANDSHAKE.ready = handshake_ready
HANDSHAKE.timed_out = handshake_timed_out
HANDSHAKE.adopt = begin_handshake


cdef const Codec* tls_codec() noexcept nogil:
    return &HANDSHAKE
