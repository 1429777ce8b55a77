"""The codec of a client whose TLS is not agreed upon yet: it brings the handshake on, and hands the connection to HTTP when hands are shaken.

A handshake has one deadline, from accept on. What it dies of is counted by its reason (failure.pxd); no exchange begins before it is over, but
for a client that speaks plain HTTP here: that one is told so.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.access_log cimport log_partial_head
from fastlb.data_plane.buffer cimport append_bytes
from fastlb.data_plane.connection cimport close_connection, limit_idle, set_deadline
from fastlb.data_plane.exchange cimport open_exchange, refuse
from fastlb.data_plane.failure cimport FAILURE_PLAIN_HTTP, FAILURE_TLS_TIMEOUT
from fastlb.data_plane.meters cimport count_client_in, count_failure, read_clock_us
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.tls cimport TLS_SAW_HTTP, TLS_STANDS, TLS_WAITS, shake_hands
from fastlb.data_plane.types cimport IO_READABLE, STATE_IDLE, Codec, Connection, Engine, Exchange


cdef void fail_handshake(Engine* engine, Connection* client, uint32_t failure) noexcept nogil:
    engine.counters.reasons[failure] += 1
    count_failure(engine, client.listener.meter, failure)
    close_connection(engine, client, False)


cdef void begin_http(Engine* engine, Connection* client) noexcept nogil:
    # From here on it is a client as any other, whose first request may be here already.
    client.codec = engine.client_codec
    client.state = STATE_IDLE
    set_deadline(engine, client, engine.now_ms + client.listener.settings.head_timeout_ms)
    if unlikely(engine.draining):
        limit_idle(engine, client)
    if client.io & IO_READABLE:
        client.codec.ready(engine, client)


cdef void refuse_plain(Engine* engine, Connection* client) noexcept nogil:
    # A 400 that says what is wrong, in plain HTTP as the client speaks it; its bytes are only logged.
    cdef:
        Exchange* exchange
        char* data = engine.tls.received + engine.tls.start
        uint32_t size = engine.tls.end - engine.tls.start
    engine.tls.start = engine.tls.end = 0
    engine.counters.client_bytes_in += size
    count_client_in(engine, client, size)
    client.codec = engine.client_codec
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
    if unlikely(client.listener.tls == NULL):   # a reload took TLS from this listener before the client had said anything
        begin_http(engine, client)
        return
    if not client.io & IO_READABLE and client.tls == NULL:
        return                                  # room to write, and nothing to say yet
    result = shake_hands(engine, client)
    # Public keys take up to milliseconds, which the next one's time must not begin with.
    engine.clock_us = read_clock_us()
    engine.now_ms = engine.clock_us // 1000
    if result == TLS_STANDS:
        if client.tls.is_challenge:
            close_connection(engine, client, False)     # to see the certificate was all it came for
        else:
            begin_http(engine, client)
    elif result == TLS_SAW_HTTP:
        refuse_plain(engine, client)
    elif result != TLS_WAITS:
        fail_handshake(engine, client, <uint32_t>-result)
    elif client.io & IO_READABLE and (client.tls == NULL or client.tls.held == NULL):
        list_ready(engine, client)              # more, or its end, came in the same event


cdef void handshake_timed_out(Engine* engine, Connection* client) noexcept nogil:
    fail_handshake(engine, client, FAILURE_TLS_TIMEOUT)


cdef Codec HANDSHAKE
HANDSHAKE.ready = handshake_ready
HANDSHAKE.timed_out = handshake_timed_out
HANDSHAKE.send_informational = NULL
HANDSHAKE.send_head = NULL
HANDSHAKE.send_local = NULL
HANDSHAKE.send_answer = NULL
HANDSHAKE.end = NULL
HANDSHAKE.reset = NULL
HANDSHAKE.switch_to_tunnel = NULL
HANDSHAKE.send_request = NULL


cdef const Codec* tls_codec() noexcept nogil:
    return &HANDSHAKE
