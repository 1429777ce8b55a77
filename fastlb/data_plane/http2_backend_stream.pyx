"""One stream to a backend as its attempt sees it: a backend connection without a descriptor, with a Codec and a Transport of its own.

The request's head is written as for HTTP/1.1, with all that its route changes, and listed from there (http2_head.pyx); its body goes through
Http2Stream.output, at most a block of 64 KiB. The answer's heads have come as lists and wait as the text of HTTP/1.1, which is parsed with the
strictness that other backends meet; what is read as its body are DATA frames, and its end is END_STREAM. So exchanges, relays, retries and hedges
are those of any backend, and both directions run at once for as long as either wants. The window that the backend is given is how far the relay has read.

Owns nothing: the stream is its session's (http2_backend.pyx), and closing the connection hands it back.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.exchange cimport connected, fail_attempt, progress, take_response_head
from fastlb.data_plane.failure cimport FAILURE_BACKEND_CLOSED, FAILURE_BAD_RESPONSE, FAILURE_HEAD_TOO_LARGE, FAILURE_NO_UPGRADE
from fastlb.data_plane.hedge cimport face_attempt, win_race
from fastlb.data_plane.http1_head cimport kept_request, parse_response
from fastlb.data_plane.http1_serialise cimport write_request
from fastlb.data_plane.http2 cimport SUBMITTED, TOO_MANY_FIELDS, consume, put_output, put_parts, remote_allows_connect, submit_request, take_input, wake_output
from fastlb.data_plane.http2_backend cimport H2_JOINED, H2_MOVES, leave_stream, may_begin, move_attempt
from fastlb.data_plane.http2_head cimport accepts_trailers, is_websocket
from fastlb.data_plane.meters cimport count_reuse
from fastlb.data_plane.relay cimport relay_offer, relay_redirect, relay_replay
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport (ATTEMPT_ANSWERED, ATTEMPT_CONNECTING, ATTEMPT_SENT, FRAME_NONE, FRAME_STREAM, H2_CLOSED, H2_CONNECT, H2_ENDED, H2_HEAD_GONE,
                                      H2_REMOTE_ENDED, HEAD_UPGRADE, IO_AGAIN, IO_CLOSED, IO_EOF, IO_READABLE, IO_WRITE_CLOSED,
                                      MAX_HEAD_BYTES, MAX_HEADERS, POOL_PASSIVE_HEALTH, RELAY_RUNNING, SMALL_BODY_BYTES, STATE_CONNECTING, WAIT_CONNECT, WAIT_UNSET, X_EXPECT, X_FRESH,
                                      X_HEAD_SENT, X_RESEND, Attempt, Buffer, Codec, Connection, Engine, Exchange, Head, HeadLimits, Http2Stream, Relay,
                                      Transport)

cdef HeadLimits LIMITS
LIMITS.max_bytes = MAX_HEAD_BYTES
LIMITS.max_target_bytes = 0
LIMITS.max_fields = MAX_HEADERS


# ---------------------------------------------------------------------------------------------------------- the request
cdef void begin_relay(Engine* engine, Exchange* exchange, Attempt* attempt, const Head* head) noexcept nogil:
    # Its head is submitted: the body follows, as far as it is here.
    cdef:
        Relay* up = &exchange.up
        Connection* client = exchange.client
        Buffer* input = client.input
    if unlikely(exchange.flags & X_RESEND):
        relay_redirect(engine, up, attempt.connection)
        if head.framing != FRAME_NONE:
            up.sink_framing = FRAME_STREAM
        relay_replay(engine, up, 0)
        return
    up.sink = attempt.connection
    up.state = RELAY_RUNNING
    if head.framing != FRAME_NONE:
        up.sink_framing = FRAME_STREAM
    if input != NULL and head.framing != FRAME_NONE:
        client.input = NULL
        relay_offer(engine, up, 0, input.data + input.start, input.end - input.start)
        return_buffer(&engine.buffers, input)       # what was not this body's is in a new client.input
    else:
        relay_offer(engine, up, 0, NULL, 0)


cdef uint32_t send_request(Engine* engine, Attempt* attempt) noexcept nogil:
    cdef:
        Exchange* exchange = attempt.exchange
        Http2Stream* stream = <Http2Stream*>attempt.connection.http2
        Head* head = kept_request(engine, exchange)
        uint32_t size = write_request(engine, exchange, head, attempt.backend)
        int result = TOO_MANY_FIELDS
    if unlikely(head.flags & HEAD_UPGRADE):
        if not is_websocket(head) or not remote_allows_connect(stream.session):
            return FAILURE_NO_UPGRADE
        stream.flags |= H2_CONNECT
    if size:
        result = submit_request(engine, stream, engine.write_buffer, size, head.framing != FRAME_NONE or stream.flags & H2_CONNECT != 0,
                                stream.session.connection.tls != NULL, accepts_trailers(head))
    if unlikely(result != SUBMITTED):
        if result == TOO_MANY_FIELDS:
            return FAILURE_HEAD_TOO_LARGE
        stream.session.refuses = True
        return FAILURE_BACKEND_CLOSED
    attempt.state = ATTEMPT_SENT
    begin_relay(engine, exchange, attempt, head)
    return 0


cdef void fail_stream(Engine* engine, Exchange* exchange, Attempt* attempt, const Http2Stream* stream) noexcept nogil:
    # Its attempt fails before its answer has begun. Where the backend has not taken the request up, nothing was sent.
    if not stream.flags & H2_HEAD_GONE:
        attempt.state = ATTEMPT_CONNECTING
        if exchange.up.sink == attempt.connection:
            exchange.up.sent = 0
        attempt.reused = stream.id != 0 and not exchange.flags & X_FRESH    # once more there, and then elsewhere
    fail_attempt(engine, exchange, stream.failure)


# ---------------------------------------------------------------------------------------------------------- the answer
cdef bint take_heads(Engine* engine, Exchange* exchange, Connection* connection, Http2Stream* stream) noexcept nogil:
    # Hands on what is here of its heads. False: the exchange moved on (or ended); do not touch it in this event.
    cdef:
        Head* head = &engine.response
        Buffer* text = stream.head
        Buffer* input = NULL
        int result
    exchange.attempt.state = ATTEMPT_ANSWERED
    if unlikely(exchange.hedge != NULL):
        win_race(engine, exchange)
    while True:
        result = parse_response(head, text.data + text.start, text.end - text.start, &LIMITS, exchange.method)
        if unlikely(result <= 0):
            fail_attempt(engine, exchange, <uint32_t>-result if result else FAILURE_BAD_RESPONSE)
            return False
        text.start += <uint32_t>result
        if head.status >= 200 or head.status == 101:
            break
        if head.status == 100:
            exchange.flags &= ~<uint32_t>X_EXPECT
        exchange.client.codec.send_informational(engine, exchange, head)
        if text.start == text.end:
            stream.head = NULL
            return_buffer(&engine.buffers, text)
            connection.wait = WAIT_UNSET        # its time starts anew
            return True
    stream.head = NULL                          # owned here: the stream may be gone when this returns
    if stream.input != NULL and stream.input.end - stream.input.start <= SMALL_BODY_BYTES:
        input = stream.input                    # leaves with the head, in one send
        stream.input = NULL
        consume(engine, stream, input.end - input.start)
        if not stream.flags & (H2_REMOTE_ENDED | H2_CLOSED):
            connection.io &= ~<uint32_t>IO_READABLE
    if input == NULL:
        take_response_head(engine, exchange, head, NULL, 0)
    else:
        take_response_head(engine, exchange, head, input.data + input.start, input.end - input.start)
    return_buffer(&engine.buffers, input)
    return_buffer(&engine.buffers, text)
    return False


cdef void spare_backend(const Http2Stream* stream, Attempt* attempt) noexcept nogil:
    # This attempt fails. If it has waited for a session that another one has opened, that one's failure is the backend's: one, and not a hundred.
    if stream.flags & H2_JOINED and attempt.connection.state == STATE_CONNECTING:
        attempt.watched &= ~<uint8_t>POOL_PASSIVE_HEALTH


cdef void stream_ready(Engine* engine, Connection* connection) noexcept nogil:
    cdef:
        Http2Stream* stream = <Http2Stream*>connection.http2
        Exchange* exchange = connection.exchange
    face_attempt(exchange, connection.attempt)
    if unlikely(stream.failure != 0 and not exchange.flags & X_HEAD_SENT):
        spare_backend(stream, connection.attempt)
        fail_stream(engine, exchange, connection.attempt, stream)
    elif unlikely(connection.state == STATE_CONNECTING):
        if stream.flags & H2_MOVES:
            move_attempt(engine, connection.attempt)
        elif may_begin(stream.session, stream, exchange):
            if stream.flags & H2_JOINED:
                engine.counters.backend_reused += 1
                count_reuse(engine, exchange, connection.backend)
            connected(engine, exchange)
    elif stream.head == NULL or take_heads(engine, exchange, connection, stream):
        progress(engine, exchange)


cdef void stream_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    if connection.wait == WAIT_CONNECT:
        spare_backend(<Http2Stream*>connection.http2, connection.attempt)
    engine.backend_codec.timed_out(engine, connection)      # as any attempt's


cdef void close_stream(Engine* engine, Connection* connection, bint reset) noexcept nogil:
    leave_stream(engine, <Http2Stream*>connection.http2)
    connection.http2 = NULL


# ---------------------------------------------------------------------------------------------------------- transport
cdef ssize_t stream_receive(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    cdef:
        Http2Stream* stream = <Http2Stream*>connection.http2
        uint32_t n
    if stream.input == NULL:
        connection.io &= ~<uint32_t>IO_READABLE
        if stream.failure != 0:
            return IO_CLOSED
        if not stream.flags & H2_REMOTE_ENDED:
            return IO_AGAIN
        connection.io |= IO_EOF
        connection.exchange.down.chunk.trailers = stream.received_trailers      # behind the last chunk
        stream.received_trailers = NULL
        return 0
    n = take_input(engine, stream, data, <uint32_t>size)
    if stream.input == NULL and not stream.flags & (H2_REMOTE_ENDED | H2_CLOSED) and stream.failure == 0:
        connection.io &= ~<uint32_t>IO_READABLE
    return n


cdef int stream_shut_write(Engine* engine, Connection* connection) noexcept nogil:
    # The request is whole, or its tunnel ends in this direction. Its trailers stay with the exchange, which may have to send them again.
    cdef:
        Http2Stream* stream = <Http2Stream*>connection.http2
        const Buffer* trailers = connection.exchange.up.chunk.trailers
    connection.io |= IO_WRITE_CLOSED
    if trailers != NULL and stream.trailers == NULL:
        append_bytes(&engine.buffers, &stream.trailers, trailers.data + trailers.start, trailers.end - trailers.start)
    stream.flags |= H2_ENDED
    wake_output(engine, stream)
    return 0


cdef Codec STREAM
STREAM.ready = stream_ready
STREAM.timed_out = stream_timed_out
STREAM.send_request = send_request
STREAM.close = close_stream

cdef Transport TRANSPORT
TRANSPORT.receive = stream_receive
TRANSPORT.send = put_output
TRANSPORT.send_parts = put_parts
TRANSPORT.shut_write = stream_shut_write
TRANSPORT.can_splice = False


cdef const Codec* http2_backend_stream_codec() noexcept nogil:
    return &STREAM


cdef const Transport* http2_backend_stream_transport() noexcept nogil:
    return &TRANSPORT
