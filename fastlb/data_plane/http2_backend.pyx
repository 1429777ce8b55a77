"""Sessions of backends: connections of KIND_BACKEND that speak HTTP/2, each shared by the attempts that run on it.

An attempt gets a stream (http2_backend_stream.pyx) on a session that has room, also on one that is still being connected to, and only then a new
connection: a hundred attempts at once open one, as long as the pool, and the backend, allow as many streams. Backend.sessions lists them; nothing else refers to a
session but its streams. It ends when it has been idle for as long as the pool keeps idle connections, when the backend says GOAWAY and the last
stream is over, and at once, with all of its attempts, when it fails or breaks the protocol. An attempt whose request the backend has not taken up
(nothing of it has left, REFUSED_STREAM, a GOAWAY with a lower number) may be made again, whatever its method.

The backend is trusted no more than a client: frames that move nothing, header lists and blocks without end, DATA that was not allowed and pushes
end the session, with the reason in Counters.backend_http2_ends.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastlb.data_plane.attempt cimport connect_backend, connect_failure
from fastlb.data_plane.backend_table cimport note_idle
from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.connection cimport close_connection, keep_idle, set_deadline
from fastlb.data_plane.connection_table cimport bury_connection, open_connection
from fastlb.data_plane.exchange cimport connected, fail_attempt
from fastlb.data_plane.failure cimport (FAILURE_BACKEND_CLOSED, FAILURE_BACKEND_NO_HTTP2, FAILURE_BACKEND_RESET, FAILURE_BACKEND_TLS, FAILURE_BAD_RESPONSE, FAILURE_CONNECT_TIMEOUT,
                                        FAILURE_OUT_OF_MEMORY, FAILURE_PENDING_LIMIT, FAILURE_RESPONSE_HEAD_TOO_LARGE)
from fastlb.data_plane.hedge cimport face_attempt
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.http2 cimport (FIELD_OVERHEAD, FRAME_BURST, HEADER_FLOOD_FACTOR, LATE_MS, SessionCalls, add_stream, allow_late_data, consume, count_frame, drop_bytes,
                                      drop_stream, end_idle, end_session, free_handle, free_session, list_session, make_callbacks, make_session,
                                      note_end, output_held, read_frames, remote_streams, reset_stream, send_ping, show_data, stream_of, submit_preface, wants_read,
                                      wants_write, write_frames)
from fastlb.data_plane.http2_head cimport AnswerTo, add_field, find_websocket_key, make_response, make_trailers
from fastlb.data_plane.limits cimport give_place_back, list_idle, take_place, take_wanted, unlist_idle
from fastlb.data_plane.meters cimport count_reuse, read_clock_us
from fastlb.data_plane.nghttp2 cimport (NGHTTP2_CANCEL, NGHTTP2_CONTINUATION, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, NGHTTP2_GOAWAY, NGHTTP2_HEADERS,
                                        NGHTTP2_FLAG_ACK, NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_RST_STREAM, NGHTTP2_SETTINGS,
                                        NGHTTP2_SETTINGS_ENABLE_PUSH, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                        NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, nghttp2_frame,
                                        nghttp2_frame_hd, nghttp2_session, nghttp2_session_callbacks, nghttp2_settings_entry)
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.tls cimport TLS_STANDS, TLS_WAITS, chose_http2, greet_backend, offer_http1
from fastlb.data_plane.transport cimport connect_result
from fastlb.data_plane.types cimport (H2_CLOSED, H2_CONNECT, H2_ENDED, H2_HEAD_CAME, H2_HEAD_GONE, H2_IN_TRAILERS, H2_REMOTE_ENDED, H2_RESET, H2_TOO_LARGE,
                                      HTTP2_HEADER_FLOOD, HTTP2_NOT_ENDED, HTTP2_PROTOCOL_ERROR, HTTP2_WRITE_TIMEOUT, IO_EOF, IO_ERROR, IO_HALF_CLOSED,
                                      IO_READABLE, IO_READY_LISTED, IO_WRITABLE, KIND_BACKEND_STREAM, LIMIT_PENDING, LINGER_MS, MAX_HEAD_BYTES,
                                      METHOD_HEAD, POOL_LIMITS, PROTOCOL_AUTO, STATE_CONNECTING, STATE_EXCHANGE, WAIT_CONNECT, X_FRESH, X_IDEMPOTENT, X_UPGRADE, Attempt, Backend, Buffer, Codec, Connection,
                                      Engine, Exchange, Http2Session, Http2Stream, ImagePool)

cdef enum:
    FRAMES_PER_REQUEST = 4          # what an answer may take besides its DATA: its head, trailers, a window, a reset
    BLOCK_MS = 10_000               # for a header block, during which no other stream can move
    STALLED_MS = 60_000             # frames that the socket does not take
    SILENT_MS = 1_000               # an attempt that ends without an answer asks whether the session is alive, if nothing came for so long
    PING_MS = 5_000                 # to answer that
    HTTP1_MS = 60_000               # for how long a backend's choice of HTTP/1.1 is taken for granted


# ---------------------------------------------------------------------------------------------------------- streams
cdef bint stands(const Http2Session* session) noexcept nogil:
    # Requests can be sent; else it is being connected to.
    return session.connection.state == STATE_EXCHANGE


cdef bint may_begin(const Http2Session* session, const Http2Stream* stream, const Exchange* exchange) noexcept nogil:
    # Whether its request can be sent now. Until the backend has said what it allows, that is so of a WebSocket's on no session, and of one request
    # alone where no earlier session knows: a burst would be refused.
    if not stands(session):
        return False
    if session.is_settled:
        return True
    return not exchange.flags & X_UPGRADE and (session.connection.backend.allowed_streams != 0 or not stream.flags & H2_JOINED)


cdef bint takes_stream(Http2Session* session, const Exchange* exchange) noexcept nogil:
    # Whether one more attempt, of this exchange, can be made on it.
    cdef:
        const Connection* connection = session.connection
        uint64_t settings = exchange.pool.tls.settings if exchange.pool.tls != NULL else 0
        uint32_t most = remote_streams(session)
    if session.refuses or session.gone or session.end != HTTP2_NOT_ENDED or session.pinged_ms or connection.io & (IO_HALF_CLOSED | IO_ERROR | IO_EOF):
        return False
    if unlikely(exchange.flags & X_FRESH and session.received_ms and session.received_ms + LATE_MS < session.engine.now_ms):
        return False                            # silent as the one that had ended before it was used
    if settings != (connection.tls.settings if connection.tls != NULL else 0):
        return False                            # one of the two belongs to an earlier snapshot
    if not session.is_settled and connection.backend.allowed_streams:
        most = connection.backend.allowed_streams       # it will say so again
    if most > session.max_streams:
        most = session.max_streams
    return session.n_streams < most or session.n_streams == 0       # where it allows none now, one waits until it does


cdef void list_session_idle(Http2Session* session) noexcept nogil:
    # It counts among its backend's idle connections, and stands on the list of its limit where it has a place.
    cdef Connection* connection = session.connection
    session.is_listed = True
    connection.backend.idle.count += 1
    note_idle(connection.backend)
    if unlikely(connection.place != NULL):
        list_idle(connection)


cdef void unlist_session(Http2Session* session) noexcept nogil:
    cdef Connection* connection = session.connection
    session.is_listed = False
    connection.backend.idle.count -= 1
    note_idle(connection.backend)
    if unlikely(connection.place != NULL):      # whoever takes its place has taken it off the list
        unlist_idle(connection)


cdef Connection* open_stream(Http2Session* session) noexcept nogil:
    # A stream for an attempt; its connection. NULL: out of memory.
    cdef:
        Engine* engine = session.engine
        Connection* connection = open_connection(&engine.connections, -1, KIND_BACKEND_STREAM)
    if connection == NULL:
        return NULL
    if add_stream(session, connection) == NULL:
        bury_connection(&engine.connections, connection)
        return NULL
    connection.io |= IO_HALF_CLOSED             # keep_idle refuses it: what can be used again is its session
    connection.transport = engine.http2_backend_stream_transport
    connection.codec = engine.http2_backend_stream_codec
    connection.state = session.connection.state
    (<Http2Stream*>connection.http2).began_ms = engine.now_ms
    connection.backend = session.connection.backend     # borrowed: its attempt counts it
    engine.n_backend_streams += 1
    engine.counters.backend_streams_opened += 1
    if session.is_listed:
        unlist_session(session)
    return connection


cdef uint32_t open_backend_stream(Engine* engine, Exchange* exchange, Attempt* attempt) noexcept nogil:
    # A stream for this attempt, on a session with room, or on a new one; or a connection of its own where the backend has chosen HTTP/1.1. 0 or a
    # FAILURE_*.
    cdef:
        Backend* backend = attempt.backend
        Http2Session* session = backend.sessions
        Http2Stream* stream
        uint64_t deadline_ms = engine.now_ms + exchange.connect_timeout_ms
        uint32_t failure
        bint is_new = False
    if unlikely(engine.now_ms < backend.http1_until_ms and exchange.pool.image.protocol == PROTOCOL_AUTO):
        return open_http1(engine, exchange, attempt)
    while session != NULL and not takes_stream(session, exchange):
        session = session.next
    if session == NULL:
        is_new = True
        failure = open_session(engine, exchange, attempt, &session)
        if failure:
            return failure
    elif not stands(session):
        if attempt.watched & POOL_LIMITS and not take_place(engine, exchange.pool, LIMIT_PENDING, &attempt.pending_place):
            return FAILURE_PENDING_LIMIT
        if session.connection.timer.deadline_ms < deadline_ms:
            set_deadline(engine, session.connection, deadline_ms)       # each attempt has its own: the session is made for the last one, too
    attempt.connection = open_stream(session)
    if attempt.connection == NULL:
        return FAILURE_OUT_OF_MEMORY
    stream = <Http2Stream*>attempt.connection.http2
    if not is_new:
        stream.flags |= H2_JOINED
    if not may_begin(session, stream, exchange):
        attempt.connection.state = STATE_CONNECTING
    elif not is_new:
        engine.counters.backend_reused += 1
        count_reuse(engine, exchange, backend)
        attempt.reused = not exchange.flags & X_FRESH
        if not exchange.flags & X_IDEMPOTENT and session.n_streams == 1:
            session.connection.io |= IO_READABLE    # was idle: whether it has ended is asked before what could not be sent twice (as take_idle does)
    return 0


cdef uint32_t open_http1(Engine* engine, Exchange* exchange, Attempt* attempt) noexcept nogil:
    # A connection for this attempt alone. 0 or a FAILURE_*, with the connection left for end_attempt.
    cdef uint32_t failure = connect_backend(engine, exchange, attempt, &attempt.connection)
    if failure == 0 and not offer_http1(attempt.connection):
        failure = FAILURE_BACKEND_TLS
    return failure


cdef void free_stream(Http2Stream* stream) noexcept nogil:
    # nghttp2 knows it no more, and it has no connection.
    cdef Http2Session* session = stream.session
    drop_stream(stream)
    session.engine.counters.backend_streams_closed += 1
    if session.n_streams == 0:
        list_ready(session.engine, session.connection)      # it is idle


cdef inline bint is_whole(const Http2Stream* stream) noexcept nogil:
    # Both sides have said everything but, perhaps, that this is the end: a reset would blame somebody.
    return (stream.flags & (H2_ENDED | H2_HEAD_CAME | H2_RESET) == H2_ENDED | H2_HEAD_CAME and stream.failure == 0 and output_held(stream) == 0
            and stream.received == stream.content_length)


cdef void leave_stream(Engine* engine, Http2Stream* stream) noexcept nogil:
    # Its attempt is over. What the backend still sends for it is not taken.
    cdef:
        Http2Session* session = stream.session
        Buffer* input = stream.input
    stream.connection = NULL
    stream.moved_ms = engine.now_ms
    session.n_exchanges -= 1
    engine.n_backend_streams -= 1
    return_buffer(&engine.buffers, stream.head)
    stream.head = NULL
    if input != NULL:
        stream.input = NULL
        consume(engine, stream, input.end - input.start)
        return_buffer(&engine.buffers, input)
    if stream.id == 0 or stream.flags & H2_CLOSED:
        free_stream(stream)
    elif is_whole(stream):
        if session.late_ms == 0:
            session.late_ms = engine.now_ms + LINGER_MS
    else:
        reset_stream(stream, NGHTTP2_CANCEL)
        if not session.pinged_ms and session.received_ms <= stream.began_ms and engine.now_ms >= stream.began_ms + SILENT_MS:
            session.pinged_ms = engine.now_ms   # nothing has come since it began: perhaps nobody is there any more
            send_ping(session)
        return_buffer(&engine.buffers, stream.output)
        stream.output = NULL
    list_session(engine, session)


cdef void fail_stream(Engine* engine, Http2Stream* stream, uint32_t failure) noexcept nogil:
    # Its backend breaks the rules of HTTP on it: its turn tells its attempt.
    if stream.failure == 0:
        stream.failure = failure
    reset_stream(stream, NGHTTP2_PROTOCOL_ERROR)
    wake_stream(engine, stream)


cdef inline void wake_stream(Engine* engine, Http2Stream* stream) noexcept nogil:
    stream.connection.io |= IO_READABLE
    list_ready(engine, stream.connection)


cdef void take_input_end(Engine* engine, Http2Stream* stream) noexcept nogil:
    # END_STREAM has come.
    stream.flags |= H2_REMOTE_ENDED
    if stream.connection == NULL:
        return
    if not stream.flags & H2_HEAD_CAME or (stream.content_length >= 0 and stream.received != stream.content_length):
        fail_stream(engine, stream, FAILURE_BAD_RESPONSE)
    else:
        wake_stream(engine, stream)


cdef void take_head(Engine* engine, Http2Stream* stream, const Buffer* fields, bint ended) noexcept nogil:
    # A header list of its answer, an interim one or the final one, is whole.
    cdef:
        Exchange* exchange = stream.connection.exchange
        AnswerTo request
        uint32_t status = 0
        int64_t body_bytes = -1
    request.is_head = exchange.method == METHOD_HEAD
    request.is_connect = stream.flags & H2_CONNECT != 0
    request.key = NULL
    if unlikely(request.is_connect) and exchange.request_head != NULL:
        request.key = find_websocket_key(kept_request(engine, exchange), &request.key_size)
    if not make_response(&engine.buffers, fields, &request, ended, &stream.head, &status, &body_bytes) or (status < 200 and ended):
        fail_stream(engine, stream, FAILURE_BAD_RESPONSE)
        return
    if status >= 200:
        stream.flags |= H2_HEAD_CAME
        stream.content_length = body_bytes
    if ended:
        take_input_end(engine, stream)
    else:
        wake_stream(engine, stream)


# ---------------------------------------------------------------------------------------------------------- called back while reading
cdef int on_begin_frame(nghttp2_session* handle, const nghttp2_frame_hd* head, void* data) noexcept nogil:
    cdef Http2Session* session = <Http2Session*>data
    if head.type != NGHTTP2_CONTINUATION:
        session.block_ms = 0
    if head.type == NGHTTP2_DATA:
        show_data(session, head)
        if head.flags & NGHTTP2_FLAG_END_STREAM:
            return 0
    count_frame(session, head)
    return 0


cdef int on_begin_headers(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream = stream_of(handle, frame.hd.stream_id)
    session.block_ms = session.engine.now_ms
    session.block_bytes = 0
    if stream != NULL and stream.flags & H2_HEAD_CAME:
        stream.flags |= H2_IN_TRAILERS
    return 0


cdef int on_header(nghttp2_session* handle, const nghttp2_frame* frame, const uint8_t* name, size_t name_size, const uint8_t* value,
                   size_t value_size, uint8_t flags, void* data) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream = stream_of(handle, frame.hd.stream_id)
    session.block_bytes += <uint32_t>(name_size + value_size) + FIELD_OVERHEAD
    if session.block_bytes > MAX_HEAD_BYTES:
        if session.block_bytes > MAX_HEAD_BYTES * HEADER_FLOOD_FACTOR:
            session.block_bytes = MAX_HEAD_BYTES * HEADER_FLOOD_FACTOR
            note_end(session, HTTP2_HEADER_FLOOD)
        if stream != NULL:
            stream.flags |= H2_TOO_LARGE
        return 0
    if stream == NULL or stream.connection == NULL or stream.flags & H2_TOO_LARGE:
        return 0
    if not add_field(&session.engine.buffers, &stream.fields, <const char*>name, <uint32_t>name_size, <const char*>value, <uint32_t>value_size):
        stream.flags |= H2_TOO_LARGE
    return 0


cdef void take_fields(Engine* engine, Http2Stream* stream, bint ended) noexcept nogil:
    # A header list is whole.
    cdef Buffer* fields = stream.fields
    stream.fields = NULL
    if stream.connection == NULL or stream.failure != 0:
        if ended:
            stream.flags |= H2_REMOTE_ENDED
    elif stream.flags & H2_TOO_LARGE:
        fail_stream(engine, stream, FAILURE_RESPONSE_HEAD_TOO_LARGE)
    elif not stream.flags & H2_IN_TRAILERS:
        take_head(engine, stream, fields, ended)
    elif not ended or not make_trailers(&engine.buffers, fields, &stream.received_trailers):
        fail_stream(engine, stream, FAILURE_BAD_RESPONSE)       # trailers have to end the stream (RFC 9113 section 8.1)
    else:
        take_input_end(engine, stream)
    return_buffer(&engine.buffers, fields)


cdef int on_frame_recv(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    # A whole frame, or a header block with all of its.
    cdef:
        Http2Session* session = <Http2Session*>data
        Engine* engine = session.engine
        Http2Stream* stream
        uint32_t most
    if frame.hd.type == NGHTTP2_HEADERS:
        session.block_ms = 0
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL:
            take_fields(engine, stream, frame.hd.flags & NGHTTP2_FLAG_END_STREAM != 0)
    elif frame.hd.type == NGHTTP2_DATA:
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            take_input_end(engine, stream)
    elif frame.hd.type == NGHTTP2_RST_STREAM:
        engine.counters.backend_resets_received += 1
    elif frame.hd.type == NGHTTP2_SETTINGS and not frame.hd.flags & NGHTTP2_FLAG_ACK:
        most = remote_streams(session)
        session.connection.backend.allowed_streams = most if most else 1
        if not session.is_settled:
            session.is_settled = True
            settle_waiting(engine, session)
    elif frame.hd.type == NGHTTP2_GOAWAY:
        engine.counters.backend_goaways += 1
        session.refuses = True                  # nghttp2 closes the streams that it will not serve
    return 0


cdef int on_data(nghttp2_session* handle, uint8_t flags, int32_t id, const uint8_t* bytes, size_t size, void* data) noexcept nogil:
    # Body bytes. They wait until the exchange takes them, at most a window of them.
    cdef:
        Http2Session* session = <Http2Session*>data
        Engine* engine = session.engine
        Http2Stream* stream = stream_of(handle, id)
    if session.frames.left < FRAME_BURST:
        session.frames.left += 1                # what on_begin_frame took: this one moves something
    if stream == NULL or stream.connection == NULL or stream.failure != 0:
        drop_bytes(handle, id, size)
        if stream != NULL and stream.connection == NULL:
            reset_stream(stream, NGHTTP2_CANCEL)        # more than its head had said
        return 0
    stream.received += <int64_t>size
    if not stream.flags & H2_HEAD_CAME or (stream.content_length >= 0 and stream.received > stream.content_length):
        drop_bytes(handle, id, size)
        fail_stream(engine, stream, FAILURE_BAD_RESPONSE)
    elif not append_bytes(&engine.buffers, &stream.input, <const char*>bytes, <uint32_t>size):
        drop_bytes(handle, id, size)
        fail_stream(engine, stream, FAILURE_OUT_OF_MEMORY)
    else:
        wake_stream(engine, stream)
    return 0


cdef int on_stream_close(nghttp2_session* handle, int32_t id, uint32_t code, void* data) noexcept nogil:
    # Both sides have ended, either has reset it, or it could not be begun. An answer that has come whole is one, whatever the code.
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream = stream_of(handle, id)
    if stream == NULL:
        return 0
    stream.flags |= H2_CLOSED
    if stream.connection == NULL:
        free_stream(stream)
        return 0
    if code == NGHTTP2_REFUSED_STREAM:
        stream.flags &= ~<uint32_t>H2_HEAD_GONE     # nothing was done for it (RFC 9113 section 8.7)
    elif not stream.flags & H2_REMOTE_ENDED:
        stream.connection.attempt.reused = False    # told so by a session that lives: no race of keep-alive
    if not stream.flags & H2_REMOTE_ENDED and stream.failure == 0:
        stream.failure = FAILURE_BACKEND_RESET
    wake_stream(session.engine, stream)
    return 0


cdef int on_frame_send(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    # A frame of ours is in the batch.
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
    if frame.hd.type == NGHTTP2_HEADERS:
        session.frames.left += FRAMES_PER_REQUEST
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL:
            stream.flags |= H2_HEAD_GONE
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                stream.flags |= H2_ENDED        # a request without a body
    elif frame.hd.type == NGHTTP2_RST_STREAM:
        session.engine.counters.backend_resets_sent += 1
        allow_late_data(session)
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL and not stream.flags & H2_RESET and stream.failure == 0:
            stream.failure = FAILURE_BAD_RESPONSE       # found by nghttp2
    elif frame.hd.type == NGHTTP2_GOAWAY and frame.goaway.error_code != NGHTTP2_NO_ERROR:
        note_end(session, HTTP2_PROTOCOL_ERROR)     # found by nghttp2, unless it was us
    return 0


# ---------------------------------------------------------------------------------------------------------- the session
cdef SessionCalls CALLS
CALLS.begin_frame = on_begin_frame
CALLS.begin_headers = on_begin_headers
CALLS.header = on_header
CALLS.frame_recv = on_frame_recv
CALLS.data = on_data
CALLS.stream_close = on_stream_close
CALLS.frame_send = on_frame_send
cdef nghttp2_session_callbacks* CALLBACKS = make_callbacks(&CALLS)


cdef bint begin_session(Engine* engine, Connection* connection, const ImagePool* settings) noexcept nogil:
    # Its preface is ready to be sent, and it is one of its backend's. False: out of memory.
    cdef:
        Backend* backend = connection.backend
        Http2Session* session = make_session(engine, connection, CALLBACKS)
        nghttp2_settings_entry entries[3]
        uint64_t window_bytes = <uint64_t>settings.http2_window_bytes * settings.http2_streams
    if session == NULL:
        return False
    connection.codec = &BACKEND
    session.max_streams = settings.http2_streams
    session.window_bytes = settings.http2_window_bytes
    engine.counters.backend_sessions_opened += 1
    session.next = backend.sessions
    if session.next != NULL:
        session.next.previous = session
    backend.sessions = session
    entries[0].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
    entries[0].value = 0
    entries[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    entries[1].value = settings.http2_window_bytes
    entries[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    entries[2].value = MAX_HEAD_BYTES
    # NO_RFC7540_PRIORITIES is not among them: with it nghttp2 sends the oldest request as long as there is anything of it, and without it requests
    # take turns. The connection has as much as all streams together may have: one whose client does not read leaves the others theirs.
    return submit_preface(session, entries, 3, <int32_t>window_bytes)


cdef uint32_t open_session(Engine* engine, Exchange* exchange, Attempt* attempt, Http2Session** session) noexcept nogil:
    # Connects to the attempt's backend. 0 or a FAILURE_*.
    cdef:
        Connection* connection = NULL
        uint32_t failure = connect_backend(engine, exchange, attempt, &connection)
    if failure == 0 and not begin_session(engine, connection, exchange.pool.image):
        failure = FAILURE_OUT_OF_MEMORY
    if failure:
        if connection != NULL:
            close_connection(engine, connection, False)
        return failure
    session[0] = <Http2Session*>connection.http2
    if stands(session[0]):
        list_session(engine, session[0])
    set_deadline(engine, connection, engine.now_ms + exchange.connect_timeout_ms)
    return 0


cdef void close_session(Engine* engine, Connection* connection, bint reset) noexcept nogil:
    # The connection closes: no attempt is left on it.
    cdef:
        Http2Session* session = <Http2Session*>connection.http2
        void* handle = session.handle
        Http2Stream* stream = session.streams
        Http2Stream* following
    session.gone = True
    session.handle = NULL
    if session.previous != NULL:
        session.previous.next = session.next
    else:
        connection.backend.sessions = session.next
    if session.next != NULL:
        session.next.previous = session.previous
    if session.is_listed:
        unlist_session(session)
    while stream != NULL:
        following = stream.next
        drop_stream(stream)
        engine.counters.backend_streams_closed += 1
        stream = following
    free_handle(handle)
    engine.counters.backend_sessions_closed += 1
    free_session(session)


cdef void leave_session(Engine* engine, Http2Session* session, uint32_t failure) noexcept nogil:
    # Nothing more comes or goes: each attempt fails at its next turn, but for those whose answer is here, and the connection closes behind the
    # last one.
    cdef Http2Stream* stream = session.streams
    session.gone = True
    if session.end != HTTP2_NOT_ENDED:
        engine.counters.backend_http2_ends[session.end] += 1
    while stream != NULL:
        stream.flags |= H2_CLOSED
        if stream.connection != NULL:
            if not stream.flags & H2_REMOTE_ENDED and stream.failure == 0:
                stream.failure = failure
            wake_stream(engine, stream)
        stream = stream.next
    list_ready(engine, session.connection)      # behind them


cdef void wake_waiting(Engine* engine, Http2Session* session) noexcept nogil:
    # The attempts that wait for this session have their turn.
    cdef Http2Stream* stream = session.streams
    while stream != NULL:
        if stream.connection != NULL and stream.connection.state == STATE_CONNECTING:
            list_ready(engine, stream.connection)
        stream = stream.next


cdef void stand(Engine* engine, Http2Session* session) noexcept nogil:
    # It is connected: the frames of all attempts that wait for it leave together.
    session.connection.state = STATE_EXCHANGE
    wake_waiting(engine, session)
    list_ready(engine, session.connection)


cdef void settle_waiting(Engine* engine, Http2Session* session) noexcept nogil:
    # It is known what the backend allows: as many as it has room for begin, the oldest first, and the others go to other sessions.
    cdef:
        Http2Stream* stream = session.streams
        Http2Stream* oldest = NULL
        uint32_t most = session.connection.backend.allowed_streams
        uint32_t n_begun = 0
    while stream != NULL:
        n_begun += stream.id != 0
        oldest = stream
        stream = stream.next
    stream = oldest
    while stream != NULL:
        if stream.id == 0 and stream.connection != NULL:
            if n_begun >= most:
                stream.flags |= H2_MOVES
            n_begun += 1
            list_ready(engine, stream.connection)
        stream = stream.previous


cdef void begin_anew(Engine* engine, Attempt* attempt, Connection* connection, uint8_t wait, uint64_t deadline_ms) noexcept nogil:
    # This attempt, which has waited for a session, goes on with `connection` alone, or on another session where that is NULL.
    cdef:
        Exchange* exchange = attempt.exchange
        uint32_t failure
    face_attempt(exchange, attempt)
    if connection != NULL:
        attempt.connection = connection
    else:
        give_place_back(engine, &attempt.pending_place)
        failure = open_backend_stream(engine, exchange, attempt)
        if failure:
            fail_attempt(engine, exchange, failure)
            return
    attempt.connection.attempt = attempt
    attempt.connection.exchange = exchange
    attempt.connection.wait = wait
    set_deadline(engine, attempt.connection, deadline_ms)
    if connection == NULL:
        if attempt.connection.state == STATE_EXCHANGE:
            connected(engine, exchange)
    else:
        connected(engine, exchange)
        if connection.state == STATE_EXCHANGE and connection.io & IO_READABLE:
            list_ready(engine, connection)      # its end, or an answer before the question, came in the same event


cdef void leave_waiting(Engine* engine, Attempt* attempt) noexcept nogil:
    # This attempt does not wait for its session any more.
    cdef Connection* connection = attempt.connection
    attempt.connection = NULL
    attempt.reused = False
    connection.attempt = NULL
    connection.exchange = NULL
    close_connection(engine, connection, False)


cdef void move_attempt(Engine* engine, Attempt* attempt) noexcept nogil:
    # This attempt, which has waited for a session that has no room for it, goes to another one. It has no more time for that.
    cdef:
        uint8_t wait = attempt.connection.wait
        uint64_t deadline_ms = attempt.connection.timer.deadline_ms
    leave_waiting(engine, attempt)
    begin_anew(engine, attempt, NULL, wait, deadline_ms)


cdef Attempt* take_waiting(Engine* engine, Http2Session* session) noexcept nogil:
    # An attempt that waits for this session, which it leaves; NULL: none does.
    cdef Attempt* attempt
    if session.streams == NULL:
        return NULL
    attempt = session.streams.connection.attempt        # none of them has begun, so each has one
    leave_waiting(engine, attempt)
    return attempt


cdef void fall_back(Engine* engine, Http2Session* session) noexcept nogil:
    # The backend has chosen HTTP/1.1: this connection is for one of the attempts that wait for it, and the others get their own.
    cdef:
        Connection* connection = session.connection
        Attempt* first = take_waiting(engine, session)
        Attempt* attempt
    connection.backend.http1_until_ms = engine.now_ms + HTTP1_MS
    session.refuses = True
    attempt = take_waiting(engine, session)
    while attempt != NULL:
        begin_anew(engine, attempt, NULL, WAIT_CONNECT, engine.now_ms + attempt.exchange.connect_timeout_ms)
        attempt = take_waiting(engine, session)
    close_session(engine, connection, False)
    connection.codec = engine.backend_codec
    if first != NULL:
        begin_anew(engine, first, connection, WAIT_CONNECT, engine.now_ms + first.exchange.connect_timeout_ms)
    else:
        keep_idle(engine, connection)


cdef void greet(Engine* engine, Http2Session* session) noexcept nogil:
    # Brings its TLS handshake on.
    cdef:
        Connection* connection = session.connection
        int result = greet_backend(engine, connection)
    engine.clock_us = read_clock_us()           # that was a long one
    engine.now_ms = engine.clock_us // 1000
    if result == TLS_WAITS:
        if connection.io & IO_READABLE and connection.tls.held == NULL:
            list_ready(engine, connection)
    elif result != TLS_STANDS:
        leave_session(engine, session, <uint32_t>-result)
    elif chose_http2(connection):
        stand(engine, session)
    elif connection.backend.protocol == PROTOCOL_AUTO:
        fall_back(engine, session)
    else:
        leave_session(engine, session, FAILURE_BACKEND_NO_HTTP2)


cdef void connect_on(Engine* engine, Http2Session* session) noexcept nogil:
    # Something has happened to a connection that is being made.
    cdef:
        Connection* connection = session.connection
        int error
    if connection.tls == NULL or not connection.tls.connected:
        if not connection.io & (IO_WRITABLE | IO_ERROR):
            return
        error = connect_result(connection)
        if error:
            leave_session(engine, session, connect_failure(error))
            return
    if connection.tls == NULL:
        stand(engine, session)
    else:
        connection.tls.connected = True
        greet(engine, session)


cdef void end_unused(Http2Session* session) noexcept nogil:
    # No stream is left, and none is to come.
    session.refuses = True
    end_idle(session)


cdef void settle_idle(Engine* engine, Http2Session* session) noexcept nogil:
    # No stream is left: it waits for the next one, or ends.
    cdef Connection* connection = session.connection
    if session.is_listed and not session.refuses and connection.backend.max_idle != 0 and not connection.io & IO_HALF_CLOSED:
        return
    if session.refuses or connection.io & IO_HALF_CLOSED or connection.backend.idle.count >= connection.backend.max_idle:
        end_unused(session)
    elif connection.place != NULL and take_wanted(connection.place):
        give_place_back(engine, &connection.place)
        end_unused(session)
    else:
        list_session_idle(session)


cdef void session_ready(Engine* engine, Connection* connection) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>connection.http2
        bint is_listed = connection.io & IO_READY_LISTED != 0
        bint lost = False
    if unlikely(session.gone):
        if session.n_exchanges == 0:
            close_connection(engine, connection, False)
        return
    if unlikely(connection.state == STATE_CONNECTING):
        connect_on(engine, session)
        return
    if unlikely(connection.io & IO_ERROR and not connection.io & IO_READABLE):
        leave_session(engine, session, FAILURE_BACKEND_RESET)
        return
    # First what has come: behind a GOAWAY, or an end, no request is begun.
    if not read_frames(engine, connection, &lost):
        if lost:
            leave_session(engine, session, FAILURE_BACKEND_CLOSED if connection.io & IO_EOF else FAILURE_BACKEND_RESET)
            return
    if unlikely(session.pinged_ms != 0) and session.received_ms >= session.pinged_ms:
        session.pinged_ms = 0                   # somebody is there: nothing had come for SILENT_MS when it was asked
    # Where others are to have their turn first (IO_READY_LISTED), their frames go with ours.
    if session.end == HTTP2_NOT_ENDED and not is_listed and (session.held != NULL or wants_write(session)) and not write_frames(engine, connection):
        leave_session(engine, session, FAILURE_BACKEND_RESET)
        return
    if unlikely(session.end != HTTP2_NOT_ENDED):
        end_session(session)
        write_frames(engine, connection)        # says why, if the socket takes it now
        leave_session(engine, session, FAILURE_BACKEND_NO_HTTP2 if session.speaks_http1 else FAILURE_BAD_RESPONSE)
        return
    if session.n_streams == 0:
        settle_idle(engine, session)
    elif unlikely(session.late_ms != 0) and engine.now_ms >= session.late_ms:
        reset_late(engine, session)
    if wants_write(session):
        list_session(engine, session)
    elif unlikely(session.held == NULL and not wants_read(session)):
        leave_session(engine, session, FAILURE_BACKEND_CLOSED)      # a GOAWAY has come or gone, and no stream is left that it lets finish
        return
    arm(engine, session)


cdef void arm(Engine* engine, Http2Session* session) noexcept nogil:
    # When this session is looked at again, if nothing happens. What attempts wait for is theirs.
    cdef uint64_t when = engine.now_ms + STALLED_MS
    if session.n_streams == 0:
        when = session.idle_ms + session.connection.backend.idle_timeout_ms
    elif session.late_ms and session.late_ms < when:
        when = session.late_ms
    if session.held != NULL and session.written_ms + STALLED_MS < when:
        when = session.written_ms + STALLED_MS
    if session.block_ms and session.block_ms + BLOCK_MS < when:
        when = session.block_ms + BLOCK_MS
    if session.pinged_ms and session.pinged_ms + PING_MS < when:
        when = session.pinged_ms + PING_MS
    if when <= engine.now_ms:
        if session.connection.timer.link != NULL and session.connection.timer.deadline_ms <= engine.now_ms + LATE_MS:
            return                              # it fires soon, whatever the backend says until then
        when = engine.now_ms + LATE_MS          # a deadline in the past would fire for ever
    set_deadline(engine, session.connection, when)


cdef void reset_late(Engine* engine, Http2Session* session) noexcept nogil:
    # Streams whose attempt had all of its answer, but whose end has not come since.
    cdef Http2Stream* stream = session.streams
    session.late_ms = 0
    while stream != NULL:
        if stream.connection == NULL and not stream.flags & (H2_RESET | H2_CLOSED):
            if engine.now_ms >= stream.moved_ms + LINGER_MS:
                reset_stream(stream, NGHTTP2_CANCEL)
            elif session.late_ms == 0 or stream.moved_ms + LINGER_MS < session.late_ms:
                session.late_ms = stream.moved_ms + LINGER_MS
        stream = stream.next


cdef void session_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    cdef Http2Session* session = <Http2Session*>connection.http2
    if session.gone:
        return
    if connection.state == STATE_CONNECTING:
        leave_session(engine, session, FAILURE_CONNECT_TIMEOUT)
        return
    if session.held != NULL and engine.now_ms >= session.written_ms + STALLED_MS:
        note_end(session, HTTP2_WRITE_TIMEOUT)
        leave_session(engine, session, FAILURE_BACKEND_RESET)
        return
    if session.block_ms and engine.now_ms >= session.block_ms + BLOCK_MS:
        note_end(session, HTTP2_HEADER_FLOOD)
        leave_session(engine, session, FAILURE_BAD_RESPONSE)
        return
    if session.pinged_ms and engine.now_ms >= session.pinged_ms + PING_MS:
        leave_session(engine, session, FAILURE_BACKEND_RESET)
        return
    if session.n_streams == 0 and engine.now_ms >= session.idle_ms + connection.backend.idle_timeout_ms:
        end_unused(session)
    reset_late(engine, session)
    if wants_write(session):
        list_session(engine, session)
    arm(engine, session)


cdef Codec BACKEND
BACKEND.ready = session_ready
BACKEND.timed_out = session_timed_out
BACKEND.close = close_session


cdef const Codec* http2_backend_codec() noexcept nogil:
    return &BACKEND
