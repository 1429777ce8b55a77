"""Sessions of clients: a connection of KIND_CLIENT that speaks HTTP/2, and what it asks of its streams.

A session owns its streams; a stream has a connection of KIND_STREAM while its exchange runs (http2_stream.pyx). Streams that come to nothing by
the client's doing, and header lists that never end, have limits of their own here; all else that a client may cost is http2.pyx's. Drains are said
with GOAWAY, first as a notice and then with the last stream that is served, so that no request is lost between.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.connection cimport close_connection, set_deadline, stand_for
from fastlb.data_plane.connection_table cimport bury_connection, open_connection
from fastlb.data_plane.exchange cimport close_exchange
from fastlb.data_plane.http1 cimport linger
from fastlb.data_plane.http2 cimport (FIELD_OVERHEAD, FRAME_BURST, HEADER_FLOOD_FACTOR, LATE_MS, SessionCalls, add_stream, allow_late_data, announce_last, announce_leave,
                                      begin_stream, consume, count_frame, drop_bytes, drop_stream, end_idle, end_session, free_handle, free_session, list_session,
                                      make_callbacks, make_session, note_end, output_held, read_frames, refuse_stream, reset_stream, show_data, spend, stream_of,
                                      submit_preface, take_frames, wants_read, wants_write, write_frames)
from fastlb.data_plane.http2_head cimport add_field, make_trailers
from fastlb.data_plane.nghttp2 cimport (NGHTTP2_CANCEL, NGHTTP2_CONTINUATION, NGHTTP2_DATA, NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_FLAG_END_HEADERS,
                                        NGHTTP2_FLAG_END_STREAM, NGHTTP2_FLOW_CONTROL_ERROR, NGHTTP2_FRAME_SIZE_ERROR, NGHTTP2_GOAWAY,
                                        NGHTTP2_HCAT_REQUEST, NGHTTP2_HEADERS, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR,
                                        NGHTTP2_RST_STREAM, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                        NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
                                        NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, NGHTTP2_STREAM_CLOSED, nghttp2_frame, nghttp2_frame_hd,
                                        nghttp2_session, nghttp2_session_callbacks, nghttp2_settings_entry)
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport (H2_CLOSED, H2_ENDED, H2_IN_TRAILERS, H2_MALFORMED, H2_REMOTE_ENDED, H2_RESET, H2_TOO_LARGE, HTTP2_HEADER_FLOOD,
                                      HTTP2_NOT_ENDED, HTTP2_PROTOCOL_ERROR, HTTP2_RAPID_RESETS, HTTP2_WRITE_TIMEOUT, IO_EOF, IO_ERROR,
                                      IO_READABLE, IO_READY_LISTED, KIND_STREAM, LINGER_MS, STATE_EXCHANGE, STATE_HEAD, STATE_IDLE, Buffer, Codec,
                                      Connection, Engine, Http2Session, Http2Stream, ListenerSettings)

cdef enum:
    # Streams that come to nothing by the client's doing (CVE-2023-44487, CVE-2025-8671): as many at once, and then one each 20 ms. A browser that
    # leaves a page resets what is under way, so the burst is well above any number of streams at a time that it uses.
    RESET_BURST = 400
    RESET_MS = 20
    LEAVE_MS = 1_000                # between a notice that no stream should follow, and the last one's number (RFC 9113 section 6.8)
    STREAM_SHARE = 2                # streams take at most this part (a half) of the connection table


cdef void count_reset(Http2Session* session) noexcept nogil:
    if not spend(&session.resets, session.engine.now_ms, <int64_t>RESET_BURST * RESET_MS, RESET_MS):
        note_end(session, HTTP2_RAPID_RESETS)


# ---------------------------------------------------------------------------------------------------------- streams
cdef Http2Stream* open_stream(Http2Session* session, int32_t id) noexcept nogil:
    # A stream with its connection. NULL: no room, or out of memory.
    cdef:
        Engine* engine = session.engine
        Connection* client = session.connection
        Connection* connection
        Http2Stream* stream
    if engine.n_streams >= engine.connections.max_open // <uint32_t>STREAM_SHARE:
        return NULL
    connection = open_connection(&engine.connections, -1, KIND_STREAM)
    if connection == NULL:
        return NULL
    stream = add_stream(session, connection)
    if stream == NULL:
        bury_connection(&engine.connections, connection)
        return NULL
    stream.id = id
    client.state = STATE_EXCHANGE
    engine.n_streams += 1
    engine.counters.http2_streams_opened += 1
    connection.state = STATE_HEAD
    connection.transport = engine.http2_stream_transport
    connection.codec = engine.http2_stream_codec
    stand_for(connection, client)
    client.n_exchanges += 1
    connection.tls = client.tls                 # borrowed: it outlives its streams, whose transport does not close it
    return stream


cdef void free_stream(Http2Stream* stream) noexcept nogil:
    # nghttp2 knows it no more, and it has no connection.
    cdef Http2Session* session = stream.session
    drop_stream(stream)
    session.engine.counters.http2_streams_closed += 1
    if session.n_streams == 0:
        session.connection.state = STATE_IDLE


cdef void mark_malformed(Engine* engine, Http2Stream* stream) noexcept nogil:
    # What has come of its request breaks RFC 9113 section 8: its turn will say so to the client.
    stream.flags |= H2_MALFORMED
    if stream.connection != NULL:
        stream.connection.io |= IO_READABLE
        list_ready(engine, stream.connection)


cdef void take_input_end(Engine* engine, Http2Stream* stream) noexcept nogil:
    # END_STREAM has come.
    stream.flags |= H2_REMOTE_ENDED
    if stream.connection == NULL:
        return                                  # it was answered before, and nobody has counted what came since
    if stream.content_length >= 0 and stream.received != stream.content_length:
        mark_malformed(engine, stream)
    else:
        stream.connection.io |= IO_READABLE
        list_ready(engine, stream.connection)


cdef void leave_stream(Engine* engine, Http2Stream* stream, bint reset) noexcept nogil:
    # Its connection closes. What is left of a whole answer still goes out; else the stream is reset.
    cdef:
        Http2Session* session = stream.session
        Connection* connection = stream.connection
        Buffer* input = stream.input
    stream.connection = NULL
    stream.moved_ms = engine.now_ms
    session.n_exchanges -= 1
    engine.n_streams -= 1
    session.connection.peer.trusted = connection.peer.trusted     # worked out once for all streams
    session.connection.peer.trusted_generation = connection.peer.trusted_generation
    if input != NULL:
        stream.input = NULL
        consume(engine, stream, input.end - input.start)
        return_buffer(&engine.buffers, input)
    if stream.flags & H2_CLOSED:
        free_stream(stream)
    elif reset or not stream.flags & H2_ENDED:
        if stream.flags & H2_MALFORMED:
            reset_stream(stream, NGHTTP2_PROTOCOL_ERROR)
        else:
            reset_stream(stream, NGHTTP2_INTERNAL_ERROR if reset else NGHTTP2_CANCEL)
        return_buffer(&engine.buffers, stream.output)
        stream.output = NULL
    if session.handle != NULL and (session.n_exchanges == 0 or not session.gone):
        list_session(engine, session)


# ---------------------------------------------------------------------------------------------------------- called back while reading
cdef int on_begin_frame(nghttp2_session* handle, const nghttp2_frame_hd* head, void* data) noexcept nogil:
    cdef Http2Session* session = <Http2Session*>data
    if head.type != NGHTTP2_CONTINUATION:
        session.block_ms = 0
    if head.type == NGHTTP2_HEADERS:
        return 0
    if head.type == NGHTTP2_DATA:
        show_data(session, head)
        if head.flags & NGHTTP2_FLAG_END_STREAM:
            return 0
    count_frame(session, head)
    return 0


cdef int on_begin_headers(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
    session.block_ms = session.engine.now_ms
    session.block_bytes = 0
    if frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL:
            stream.flags |= H2_IN_TRAILERS
        return 0
    if session.end != HTTP2_NOT_ENDED:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE    # the whole connection is about to end
    # Behind the last GOAWAY, which may not have gone yet, no stream is served: its client takes it elsewhere.
    stream = NULL if unlikely(session.has_left) else open_stream(session, frame.hd.stream_id)
    if stream == NULL:
        session.engine.counters.http2_streams_refused += 1
        if frame.hd.flags & NGHTTP2_FLAG_END_HEADERS:
            session.block_ms = 0                # nghttp2 says nothing more of it
        refuse_stream(handle, frame.hd.stream_id)
        return 0
    begin_stream(stream)
    return 0


cdef int on_header(nghttp2_session* handle, const nghttp2_frame* frame, const uint8_t* name, size_t name_size, const uint8_t* value,
                   size_t value_size, uint8_t flags, void* data) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
        uint32_t most = session.connection.listener.settings.head.max_bytes
    session.block_bytes += <uint32_t>(name_size + value_size) + FIELD_OVERHEAD
    if session.block_bytes > most:
        if session.block_bytes > most * HEADER_FLOOD_FACTOR:
            session.block_bytes = most * HEADER_FLOOD_FACTOR
            note_end(session, HTTP2_HEADER_FLOOD)
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL:
            stream.flags |= H2_TOO_LARGE
        return 0
    stream = stream_of(handle, frame.hd.stream_id)
    if stream == NULL or stream.connection == NULL or stream.flags & H2_TOO_LARGE:
        return 0
    if not add_field(&session.engine.buffers, &stream.received_trailers if stream.flags & H2_IN_TRAILERS else &stream.fields,
                     <const char*>name, <uint32_t>name_size, <const char*>value, <uint32_t>value_size):
        stream.flags |= H2_TOO_LARGE
    return 0


cdef void take_trailers(Engine* engine, Http2Stream* stream, bint ended) noexcept nogil:
    # The second header list is whole; it has to end the stream (RFC 9113 section 8.1).
    cdef Buffer* fields = stream.received_trailers
    stream.received_trailers = NULL
    if not ended or stream.flags & H2_TOO_LARGE or not make_trailers(&engine.buffers, fields, &stream.received_trailers):
        mark_malformed(engine, stream)
    else:
        take_input_end(engine, stream)
    return_buffer(&engine.buffers, fields)


cdef int on_frame_recv(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    # A whole frame, or a header block with all of its.
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
    if frame.hd.type == NGHTTP2_HEADERS:
        session.block_ms = 0
        stream = stream_of(handle, frame.hd.stream_id)
        if stream == NULL:
            return 0
        if stream.connection == NULL:
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                stream.flags |= H2_REMOTE_ENDED
            return 0
        if stream.flags & H2_IN_TRAILERS:
            take_trailers(session.engine, stream, frame.hd.flags & NGHTTP2_FLAG_END_STREAM != 0)
            return 0
        if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            stream.flags |= H2_REMOTE_ENDED
        list_ready(session.engine, stream.connection)
    elif frame.hd.type == NGHTTP2_DATA:
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            take_input_end(session.engine, stream)
    elif frame.hd.type == NGHTTP2_RST_STREAM:
        session.engine.counters.http2_resets_received += 1
        count_reset(session)
    return 0


cdef int on_data(nghttp2_session* handle, uint8_t flags, int32_t id, const uint8_t* bytes, size_t size, void* data) noexcept nogil:
    # Body bytes. They wait until the exchange takes them, at most a window of them.
    cdef:
        Http2Session* session = <Http2Session*>data
        Engine* engine = session.engine
        Http2Stream* stream = stream_of(handle, id)
    if session.frames.left < FRAME_BURST:
        session.frames.left += 1                # what on_begin_frame took: this one moves something
    if stream == NULL or stream.connection == NULL or stream.flags & (H2_MALFORMED | H2_RESET):
        drop_bytes(handle, id, size)
        return 0
    stream.received += <int64_t>size
    if stream.content_length >= 0 and stream.received > stream.content_length:
        drop_bytes(handle, id, size)
        mark_malformed(engine, stream)
        return 0
    if not append_bytes(&engine.buffers, &stream.input, <const char*>bytes, <uint32_t>size):
        drop_bytes(handle, id, size)
        reset_stream(stream, NGHTTP2_INTERNAL_ERROR)
        return 0
    stream.connection.io |= IO_READABLE
    list_ready(engine, stream.connection)
    return 0


cdef int on_stream_close(nghttp2_session* handle, int32_t id, uint32_t code, void* data) noexcept nogil:
    # Both sides have ended, or either has reset it.
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream = stream_of(handle, id)
    if stream == NULL:
        return 0
    stream.flags |= H2_CLOSED
    if stream.connection == NULL:
        free_stream(stream)
        return 0
    if not stream.flags & H2_REMOTE_ENDED or not stream.flags & H2_ENDED:
        stream.connection.io |= IO_ERROR        # else a tunnel that both sides have ended in order: its last bytes may wait for the backend
    list_ready(session.engine, stream.connection)
    return 0


# ---------------------------------------------------------------------------------------------------------- called back while writing
cdef int on_frame_send(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    # A frame of ours is in the batch. The end of an answer to a request that is malformed, or that has not ended, is followed by a reset: the
    # client is not to send the rest (RFC 9113 section 8.1).
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
        uint32_t code
    if frame.hd.type == NGHTTP2_RST_STREAM:
        session.engine.counters.http2_resets_sent += 1
        allow_late_data(session)
        code = frame.rst_stream.error_code
        if code == NGHTTP2_PROTOCOL_ERROR or code == NGHTTP2_FLOW_CONTROL_ERROR or code == NGHTTP2_STREAM_CLOSED or code == NGHTTP2_FRAME_SIZE_ERROR:
            count_reset(session)                # by the client's doing
        return 0
    if frame.hd.type == NGHTTP2_GOAWAY and frame.goaway.error_code != NGHTTP2_NO_ERROR:
        note_end(session, HTTP2_PROTOCOL_ERROR)     # found by nghttp2, unless it was us
    if frame.hd.type != NGHTTP2_DATA and frame.hd.type != NGHTTP2_HEADERS:
        return 0
    stream = stream_of(handle, frame.hd.stream_id)
    if stream == NULL or not stream.flags & H2_ENDED or output_held(stream):
        return 0
    if stream.flags & H2_MALFORMED:
        if frame.hd.type == NGHTTP2_DATA or not stream.flags & H2_REMOTE_ENDED:
            reset_stream(stream, NGHTTP2_PROTOCOL_ERROR)
    elif frame.hd.flags & NGHTTP2_FLAG_END_STREAM and not stream.flags & H2_REMOTE_ENDED and stream.connection == NULL:
        reset_stream(stream, NGHTTP2_NO_ERROR)      # a tunnel that its backend has half-closed goes on
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


cdef bint open_session(Engine* engine, Connection* client) noexcept nogil:
    # Our preface is ready to be sent. False: out of memory.
    cdef:
        const ListenerSettings* settings = &client.listener.settings
        Http2Session* session = make_session(engine, client, CALLBACKS)
        nghttp2_settings_entry entries[5]
    if session == NULL:
        return False
    session.resets.left = <int64_t>RESET_BURST * RESET_MS
    session.window_bytes = settings.http2_window_bytes
    client.codec = &CLIENT
    client.state = STATE_IDLE
    engine.counters.http2_sessions_opened += 1
    entries[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    entries[0].value = settings.http2_streams
    entries[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    entries[1].value = settings.http2_window_bytes
    entries[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    entries[2].value = settings.head.max_bytes
    entries[3].settings_id = NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL
    entries[3].value = 1
    entries[4].settings_id = NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES
    entries[4].value = 1
    return submit_preface(session, entries, 5, <int32_t>settings.http2_connection_window_bytes)


cdef void close_session(Engine* engine, Connection* client, bint reset) noexcept nogil:
    # The client's connection closes, or goes on without HTTP/2: every exchange and stream ends.
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        void* handle = session.handle
        Http2Stream* stream = session.streams
        Http2Stream* following
    session.gone = True
    session.handle = NULL                       # nobody lists the client any more
    while stream != NULL:
        following = stream.next
        stream.flags |= H2_CLOSED
        if stream.connection == NULL:
            free_stream(stream)
        else:
            if stream.connection.exchange != NULL:
                close_exchange(engine, stream.connection.exchange)
            close_connection(engine, stream.connection, False)      # which frees it
        stream = following
    free_handle(handle)
    engine.counters.http2_sessions_closed += 1
    free_session(session)


cdef void leave_session(Engine* engine, Http2Session* session) noexcept nogil:
    # Nothing more comes or goes: each exchange ends at its next turn, and the connection behind the last one.
    cdef Http2Stream* stream = session.streams
    session.gone = True
    if session.end != HTTP2_NOT_ENDED:
        engine.counters.http2_ends[session.end] += 1
    while stream != NULL:
        stream.flags |= H2_CLOSED
        if stream.connection != NULL:
            stream.connection.io |= IO_ERROR
            list_ready(engine, stream.connection)
        stream = stream.next
    list_ready(engine, session.connection)          # behind them


cdef void finish_session(Engine* engine, Connection* client) noexcept nogil:
    # No exchange is left. What the client still sends is read for a while, so that our GOAWAY is not lost to a reset.
    if client.io & (IO_EOF | IO_ERROR):
        close_connection(engine, client, False)
        return
    close_session(engine, client, False)
    client.codec = engine.client_codec
    linger(engine, client, LINGER_MS)


cdef void tell_to_leave(Engine* engine, Http2Session* session) noexcept nogil:
    # This worker, or this listener, serves no new client: first a notice, and when the client has had time to read it the number of the last
    # stream that is served. None is lost between (RFC 9113 section 6.8).
    if session.told_ms == 0:
        session.told_ms = engine.now_ms
        announce_leave(session)
    elif not session.has_left and engine.now_ms >= session.told_ms + LEAVE_MS:
        session.has_left = True
        announce_last(session)


cdef inline bint must_leave(const Engine* engine, const Connection* client) noexcept nogil:
    return engine.draining or client.listener.removed or client.close_after_idle


cdef void session_ready(Engine* engine, Connection* client) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        bint lost = False
    if unlikely(session.gone):
        if session.n_exchanges == 0:
            finish_session(engine, client)
        return
    if unlikely(client.io & IO_ERROR):
        leave_session(engine, session)
        return
    # Where others are to have their turn first (IO_READY_LISTED), their frames go with ours.
    if not client.io & IO_READY_LISTED and (session.held != NULL or wants_write(session)) and not write_frames(engine, client):
        leave_session(engine, session)
        return
    if session.end == HTTP2_NOT_ENDED and not read_frames(engine, client, &lost) and lost:
        leave_session(engine, session)
        return
    if unlikely(session.end != HTTP2_NOT_ENDED):
        end_session(session)
    elif unlikely(must_leave(engine, client)):
        tell_to_leave(engine, session)
    if wants_write(session):
        list_session(engine, session)
    elif unlikely(session.held == NULL and not wants_read(session)):
        leave_session(engine, session)          # a GOAWAY has gone, and no stream is left that it lets finish
        return
    arm(engine, session)


cdef void arm(Engine* engine, Http2Session* session) noexcept nogil:
    # When this connection is looked at again, if nothing happens.
    cdef:
        const ListenerSettings* settings = &session.connection.listener.settings
        uint64_t when = engine.now_ms + settings.idle_timeout_ms
    if session.n_streams == 0:
        when = session.idle_ms + (settings.idle_timeout_ms if session.connection.n_exchanges else settings.head_timeout_ms)
        if engine.draining and when > engine.now_ms + engine.drain_idle_grace_ms:
            when = engine.now_ms + engine.drain_idle_grace_ms
    elif session.checked_ms + settings.write_timeout_ms < when:
        when = session.checked_ms + settings.write_timeout_ms      # whatever the client says meanwhile
    if session.held != NULL and session.written_ms + settings.write_timeout_ms < when:
        when = session.written_ms + settings.write_timeout_ms
    if session.block_ms and session.block_ms + settings.head_timeout_ms < when:
        when = session.block_ms + settings.head_timeout_ms
    if session.told_ms and not session.has_left and session.told_ms + LEAVE_MS < when:
        when = session.told_ms + LEAVE_MS
    if when <= engine.now_ms:
        if session.connection.timer.link != NULL and session.connection.timer.deadline_ms <= engine.now_ms + LATE_MS:
            return                              # it fires soon, whatever the client says until then
        when = engine.now_ms + LATE_MS          # a deadline in the past would fire for ever
    set_deadline(engine, session.connection, when)


cdef void reset_stalled(Engine* engine, Http2Session* session) noexcept nogil:
    # Whole answers whose streams' windows stay closed; those that still run are their exchanges' to end. Where it is the socket that they wait for,
    # the session's own time runs.
    cdef:
        Http2Stream* stream = session.streams
        uint64_t most = session.connection.listener.settings.write_timeout_ms
    while stream != NULL and session.held == NULL:
        if stream.connection == NULL and not stream.flags & (H2_RESET | H2_CLOSED) and engine.now_ms >= stream.moved_ms + most:
            reset_stream(stream, NGHTTP2_CANCEL)
        stream = stream.next


cdef void session_timed_out(Engine* engine, Connection* client) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        const ListenerSettings* settings = &client.listener.settings
    if session.gone:
        return
    if session.held != NULL and engine.now_ms >= session.written_ms + settings.write_timeout_ms:
        note_end(session, HTTP2_WRITE_TIMEOUT)
        leave_session(engine, session)
        return
    if session.end != HTTP2_NOT_ENDED:
        leave_session(engine, session)          # its GOAWAY is not taken
        return
    if engine.now_ms >= session.checked_ms + settings.write_timeout_ms:
        reset_stalled(engine, session)
        session.checked_ms = engine.now_ms
    if session.block_ms and engine.now_ms >= session.block_ms + settings.head_timeout_ms:
        note_end(session, HTTP2_HEADER_FLOOD)
        end_session(session)
    elif session.n_streams == 0 and (engine.draining or engine.now_ms >= session.idle_ms + (settings.idle_timeout_ms if client.n_exchanges
                                                                                            else settings.head_timeout_ms)):
        end_idle(session)
    elif session.told_ms:
        tell_to_leave(engine, session)
    if wants_write(session):
        list_session(engine, session)
    arm(engine, session)


cdef void adopt(Engine* engine, Connection* client, const char* data, uint32_t size) noexcept nogil:
    cdef Buffer* input = client.input
    client.input = NULL
    if client.listener.settings.http2_streams == 0 or not open_session(engine, client):     # 0: switched off since the handshake
        close_connection(engine, client, True)
    else:
        if size:
            take_frames(engine, <Http2Session*>client.http2, data, size)
        list_ready(engine, client)
        arm(engine, <Http2Session*>client.http2)
    return_buffer(&engine.buffers, input)


cdef Codec CLIENT
CLIENT.ready = session_ready
CLIENT.timed_out = session_timed_out
CLIENT.adopt = adopt
CLIENT.close = close_session


cdef const Codec* http2_client_codec() noexcept nogil:
    return &CLIENT
