"""One stream of HTTP/2 as its exchange sees it: a client connection without a descriptor, with a Codec and a Transport of its own.

What is read from it is what DATA frames have brought, and its end is END_STREAM; what is sent waits in Http2Stream.output, at most a block of
64 KiB, until its session puts it into frames. So exchanges, relays, retries, queues, mirrors and logs are those of any client, and the window
that a client is given is how far its exchange has read. An exchange begins at the stream's first turn on the ready list.

Owns nothing: the stream is its session's (http2_client.pyx), and closing the connection hands it back.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastlb.data_plane.access_log cimport log_partial_head, log_request_head, log_trailers
from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.connection cimport close_connection, set_deadline
from fastlb.data_plane.early_data cimport may_begin_early
from fastlb.data_plane.exchange cimport abandon, begin_exchange, client_overdue, close_exchange, drop_retry, open_exchange, open_tunnel, progress, refuse
from fastlb.data_plane.failure cimport (FAILURE_BAD_FRAMING, FAILURE_CLIENT_RESET,
                                        FAILURE_HEAD_TOO_LARGE, FAILURE_NONE,
                                        failures)
from fastlb.data_plane.grpc cimport grpc_status_of
from fastlb.data_plane.http1 cimport count_status
from fastlb.data_plane.http1_head cimport parse_request
from fastlb.data_plane.http1_serialise cimport local_body_bytes, write_answer, write_grpc, write_informational, write_local, write_response
from fastlb.data_plane.http2 cimport consume, put_output, put_parts, submit_head, take_input, wake_output
from fastlb.data_plane.http2_client cimport leave_stream
from fastlb.data_plane.http2_head cimport BODY_UNKNOWN, asks_grpc, asks_head, make_request
from fastlb.data_plane.relay cimport relay_offer, relay_open, relay_run
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport (FRAME_LENGTH, FRAME_NONE, FRAME_UNTIL_CLOSE, H2_CONNECT, H2_EARLY, H2_ENDED,
                                      H2_MALFORMED, H2_REMOTE_ENDED, H2_TOO_LARGE, IO_AGAIN, IO_CLOSED, IO_EOF, IO_ERROR, IO_READABLE,
                                      IO_WRITE_CLOSED, KIND_BACKEND_STREAM, RELAY_RUNNING, SMALL_BODY_BYTES, STATE_HEAD, WAIT_QUEUE, WAIT_WRITE, X_HEAD_SENT,
                                      X_GRPC, X_IS_HEAD, X_REUSABLE, X_TUNNEL, Buffer, Codec, Connection, Engine, Exchange, Head, Http2Session, Http2Stream, Transport)


# ---------------------------------------------------------------------------------------------------------- the request
cdef void stream_ready(Engine* engine, Connection* connection) noexcept nogil:
    cdef:
        Http2Stream* stream = <Http2Stream*>connection.http2
        Exchange* exchange = connection.exchange
    if connection.state == STATE_HEAD:
        begin(engine, connection, stream)
    elif unlikely(connection.io & IO_ERROR):
        if exchange.flags & X_TUNNEL:
            close_exchange(engine, exchange)
            close_connection(engine, connection, False)
        else:
            abandon(engine, exchange, FAILURE_CLIENT_RESET)
    elif unlikely(stream.flags & H2_MALFORMED):
        if exchange.flags & X_HEAD_SENT:
            abandon(engine, exchange, FAILURE_BAD_FRAMING)
        else:
            refuse(engine, exchange, FAILURE_BAD_FRAMING)
    elif connection.wait != WAIT_QUEUE:
        progress(engine, exchange)


cdef int64_t body_bytes(const Http2Stream* stream) noexcept nogil:
    # What its body has, where all of it is here and no trailers follow.
    if not stream.flags & H2_REMOTE_ENDED or stream.received_trailers != NULL:
        return BODY_UNKNOWN
    return stream.received


cdef uint32_t make_head(Engine* engine, Exchange* exchange, Http2Stream* stream) noexcept nogil:
    # The stream's header list as the exchange's request head, parsed into engine.request. FAILURE_NONE, or what is wrong.
    cdef:
        Head* head = &engine.request
        bint is_connect = False
        uint32_t failure
        int result
    if stream.flags & H2_TOO_LARGE:
        return FAILURE_HEAD_TOO_LARGE
    failure = make_request(engine, stream.fields, body_bytes(stream), &exchange.request_head, &is_connect)
    if failure != FAILURE_NONE:
        return failure
    result = parse_request(head, exchange.request_head.data, exchange.request_head.end, &exchange.client.listener.settings.head)
    if result <= 0:
        return <uint32_t>-result if result else FAILURE_BAD_FRAMING
    if is_connect:
        stream.flags |= H2_CONNECT
    elif head.content_length >= 0:
        stream.content_length = head.content_length
        if stream.received > head.content_length or (stream.flags & H2_REMOTE_ENDED and stream.received != head.content_length):
            return FAILURE_BAD_FRAMING          # RFC 9113 section 8.1.1
    return FAILURE_NONE


cdef void begin(Engine* engine, Connection* connection, Http2Stream* stream) noexcept nogil:
    # The header list is whole: its exchange begins.
    cdef:
        Exchange* exchange
        Buffer* input
        uint32_t failure
    if connection.io & IO_ERROR:
        close_connection(engine, connection, False)     # reset before its turn came
        return
    if unlikely(stream.flags & H2_EARLY) and not may_begin_early(engine, stream):
        return
    exchange = open_exchange(engine, connection)
    if exchange == NULL:
        close_connection(engine, connection, True)
        return
    failure = make_head(engine, exchange, stream)
    if unlikely(failure != FAILURE_NONE):
        if asks_head(stream.fields):
            exchange.flags |= X_IS_HEAD         # no answer to it has a body
        if asks_grpc(stream.fields):
            exchange.flags |= X_GRPC
    return_buffer(&engine.buffers, stream.fields)
    stream.fields = NULL
    if unlikely(exchange.log != NULL):
        exchange.log.started_ms = engine.now_ms
        if failure == FAILURE_NONE:
            log_request_head(engine, exchange, &engine.request)
        elif exchange.request_head != NULL:
            log_partial_head(engine, exchange, exchange.request_head.data, exchange.request_head.end)
    if unlikely(stream.flags & H2_MALFORMED) and failure == FAILURE_NONE:
        failure = FAILURE_BAD_FRAMING
    if unlikely(failure != FAILURE_NONE):
        if failures[failure].status == 400:
            stream.flags |= H2_MALFORMED
        refuse(engine, exchange, failure)
        return
    if stream.input != NULL and stream.flags & H2_REMOTE_ENDED and engine.request.framing == FRAME_LENGTH \
            and stream.input.end - stream.input.start <= SMALL_BODY_BYTES:
        input = stream.input                    # all of a small body is here: it leaves with the head, in one send
        stream.input = NULL
        connection.input = input
        consume(engine, stream, input.end - input.start)
    begin_exchange(engine, exchange, &engine.request)


# ---------------------------------------------------------------------------------------------------------- the answer
cdef void send_informational(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    cdef:
        Http2Stream* stream = <Http2Stream*>exchange.client.http2
        uint32_t size = write_informational(engine, head)
    engine.counters.responses_1xx += 1
    if unlikely(exchange.log != NULL):
        exchange.log.informational_bytes += size
    if size and stream.session.held == NULL:    # what waits for a client that does not read stays bounded: interim heads may be left out
        submit_head(engine, stream, engine.write_buffer, size, False, False)


cdef bint submit_final(Engine* engine, Exchange* exchange, uint32_t size, bint has_body) noexcept nogil:
    # Sends the head in engine.write_buffer as the final one. False: it does not fit.
    if size == 0 or not submit_head(engine, <Http2Stream*>exchange.client.http2, engine.write_buffer, size, True, has_body):
        return False
    if unlikely(exchange.log != NULL):
        exchange.log.informational_bytes += size        # `sent` counts the body alone
    count_out(engine, exchange, size)
    return True


cdef inline void count_out(Engine* engine, const Exchange* exchange, uint64_t size) noexcept nogil:
    # The listener counts its frames when they go (http2.pyx).
    engine.meters[exchange.route_meter].bytes_out += size
    engine.meters[exchange.pool_meter].bytes_out += size


cdef bint send_head(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    cdef:
        Http2Stream* stream = <Http2Stream*>exchange.client.http2
        bint has_body = head.framing != FRAME_NONE
    if unlikely(stream.flags & H2_CONNECT) and head.status < 300:
        return False                            # it would say that the tunnel stands, and the backend has not switched (RFC 8441 section 5)
    if head.framing == FRAME_UNTIL_CLOSE:
        exchange.flags &= ~<uint32_t>X_REUSABLE
    if not submit_final(engine, exchange, write_response(engine, exchange, head, False, False), has_body):
        return False
    count_status(engine, head.status)
    # The stream of a backend counts by itself, and trailers may follow what it has counted.
    relay_open(&exchange.down, exchange, exchange.attempt.connection, exchange.client,
               FRAME_UNTIL_CLOSE if has_body and exchange.attempt.connection.kind == KIND_BACKEND_STREAM else head.framing, FRAME_UNTIL_CLOSE,
               head.content_length)
    relay_offer(engine, &exchange.down, 0, body, body_size)
    if exchange.down.state == RELAY_RUNNING:
        relay_run(engine, &exchange.down)
    return True


cdef void send_own(Engine* engine, Exchange* exchange, uint32_t size, uint32_t body_size) noexcept nogil:
    # An answer of our own, which stands in engine.write_buffer: `size` bytes, the last `body_size` of them its body. Its stream is fresh, so the
    # body fits (MAX_BODY_TEMPLATE_BYTES). A malformed request is answered without END_STREAM, so that a reset can follow; but for HEAD, because
    # nghttp2 sends no empty DATA.
    cdef:
        Connection* connection = exchange.client
        Http2Stream* stream = <Http2Stream*>connection.http2
    exchange.flags |= X_HEAD_SENT
    exchange.down.sent = body_size
    if body_size:
        append_bytes(&engine.buffers, &stream.output, engine.write_buffer + size - body_size, body_size)
    if not submit_final(engine, exchange, size - body_size, body_size != 0 or (stream.flags & H2_MALFORMED and not exchange.flags & X_IS_HEAD)):
        close_exchange(engine, exchange)
        close_connection(engine, connection, True)
        return
    count_out(engine, exchange, body_size)
    end_stream(engine, exchange)


cdef void send_local(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    if exchange.flags & X_GRPC and not (<Http2Stream*>exchange.client.http2).flags & H2_MALFORMED:
        if exchange.log != NULL:
            exchange.log.grpc_status = <uint16_t>grpc_status_of(failure)
        exchange.status = 200
        count_status(engine, 200)
        send_own(engine, exchange, write_grpc(engine, failure), 0)
        return
    exchange.status = failures[failure].status
    count_status(engine, exchange.status)
    send_own(engine, exchange, write_local(engine, exchange, failure, False),
             0 if exchange.flags & X_IS_HEAD else local_body_bytes(failure))


cdef void send_answer(Engine* engine, Exchange* exchange, const Head* request) noexcept nogil:
    # A redirect, or what its route responds.
    cdef uint32_t body_size = 0, size = write_answer(engine, exchange, request, False, &body_size)
    if unlikely(size == 0):
        refuse(engine, exchange, FAILURE_HEAD_TOO_LARGE)    # values of the request made it so
        return
    count_status(engine, exchange.status)
    drop_retry(engine, exchange)
    send_own(engine, exchange, size, body_size)


cdef void end_stream(Engine* engine, Exchange* exchange) noexcept nogil:
    # The answer is complete: the stream goes on without its exchange until it is sent.
    cdef:
        Connection* connection = exchange.client
        Http2Stream* stream = <Http2Stream*>connection.http2
    stream.trailers = exchange.down.chunk.trailers
    exchange.down.chunk.trailers = NULL
    if unlikely(exchange.log != NULL and stream.trailers != NULL):
        log_trailers(exchange, stream.trailers)
    stream.flags |= H2_ENDED
    wake_output(engine, stream)
    close_exchange(engine, exchange)
    close_connection(engine, connection, False)


cdef void reset_client(Engine* engine, Exchange* exchange) noexcept nogil:
    # The answer cannot be completed: the client sees a reset, never an end.
    cdef Connection* connection = exchange.client
    close_exchange(engine, exchange)
    close_connection(engine, connection, True)


cdef bint switch_to_tunnel(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    # The backend has switched to WebSocket: DATA frames are the tunnel's bytes.
    if not submit_final(engine, exchange, write_response(engine, exchange, head, False, False), True):
        return False
    open_tunnel(engine, exchange, 0, body, body_size)
    return True


# ---------------------------------------------------------------------------------------------------------- time
cdef void stream_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    # Only exchanges have deadlines here; those of its session are in http2_client.pyx. One that waits for the socket, with all others, has as much
    # time as its session.
    cdef:
        Exchange* exchange = connection.exchange
        const Http2Session* session = (<Http2Stream*>connection.http2).session
        uint64_t until = session.written_ms + connection.listener.settings.write_timeout_ms
    if exchange == NULL:
        return
    if connection.wait == WAIT_WRITE and session.held != NULL and engine.now_ms < min(until, exchange.deadline_ms):
        set_deadline(engine, connection, min(until, exchange.deadline_ms))
        return
    client_overdue(engine, exchange)


cdef void close_stream(Engine* engine, Connection* connection, bint reset) noexcept nogil:
    leave_stream(engine, <Http2Stream*>connection.http2, reset)
    connection.http2 = NULL


# ---------------------------------------------------------------------------------------------------------- transport
cdef ssize_t stream_receive(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    cdef:
        Http2Stream* stream = <Http2Stream*>connection.http2
        uint32_t n
    if stream.input == NULL:
        connection.io &= ~<uint32_t>IO_READABLE
        if connection.io & IO_ERROR:
            return IO_CLOSED
        if not stream.flags & H2_REMOTE_ENDED or stream.flags & H2_MALFORMED:
            return IO_AGAIN                     # a malformed one is refused at its turn, and must not look whole before
        connection.io |= IO_EOF
        if unlikely(stream.received_trailers != NULL):
            connection.exchange.up.chunk.trailers = stream.received_trailers     # behind the last chunk
            stream.received_trailers = NULL
        return 0
    n = take_input(engine, stream, data, <uint32_t>size)
    if stream.input == NULL and not stream.flags & H2_REMOTE_ENDED:
        connection.io &= ~<uint32_t>IO_READABLE
    return n


cdef ssize_t stream_send(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    cdef ssize_t n = put_output(engine, connection, data, size)
    if n > 0:
        count_out(engine, connection.exchange, <uint64_t>n)
    return n


cdef int stream_shut_write(Engine* engine, Connection* connection) noexcept nogil:
    # Its tunnel ends in this direction.
    cdef Http2Stream* stream = <Http2Stream*>connection.http2
    connection.io |= IO_WRITE_CLOSED
    stream.flags |= H2_ENDED
    wake_output(engine, stream)
    return 0


cdef Codec STREAM
STREAM.ready = stream_ready
STREAM.timed_out = stream_timed_out
STREAM.send_informational = send_informational
STREAM.send_head = send_head
STREAM.send_local = send_local
STREAM.send_answer = send_answer
STREAM.end = end_stream
STREAM.reset = reset_client
STREAM.switch_to_tunnel = switch_to_tunnel
STREAM.close = close_stream

cdef Transport TRANSPORT
TRANSPORT.receive = stream_receive
TRANSPORT.send = stream_send
TRANSPORT.send_parts = put_parts
TRANSPORT.shut_write = stream_shut_write
TRANSPORT.can_splice = False


cdef const Codec* http2_stream_codec() noexcept nogil:
    return &STREAM


cdef const Transport* http2_stream_transport() noexcept nogil:
    return &TRANSPORT
