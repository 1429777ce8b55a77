"""HTTP/2 to clients: a connection of KIND_CLIENT that speaks it, and the only module that calls nghttp2, which frames, compresses and counts
windows. What a stream is to its exchange is in http2_stream.pyx; heads are translated in http2_head.pyx.

A session owns its streams; a stream has a connection of KIND_STREAM, without a descriptor, while its exchange runs, and then stays until its
last frame has gone. What nghttp2 calls back from here only notes and lists: no exchange ever runs inside of it. A stream's turn comes from the
engine's ready list, and so does the session's where something is to be sent, so that frames of several streams leave in one send.

Windows are opened again only when an exchange has taken the bytes; what waits to be sent is bounded for each stream (http2_stream.pyx); while
the socket takes nothing, nothing is read. A client that costs more than it moves is ended with ENHANCE_YOUR_CALM (the Allowances below).
Checks of HTTP (RFC 9113 section 8) are ours and not nghttp2's, so that a malformed request can be answered before it is reset.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.connection cimport close_connection, set_deadline, stand_for
from fastlb.data_plane.connection_table cimport open_connection
from fastlb.data_plane.exchange cimport close_exchange
from fastlb.data_plane.http1 cimport linger
from fastlb.data_plane.http2_head cimport MAX_SENT_FIELDS, add_field, list_fields, make_trailers
from fastlb.data_plane.meters cimport count_client_in
from fastlb.data_plane.nghttp2 cimport (NGHTTP2_CANCEL, NGHTTP2_CONTINUATION, NGHTTP2_DATA, NGHTTP2_DATA_FLAG_EOF, NGHTTP2_DATA_FLAG_NO_COPY,
                                        NGHTTP2_DATA_FLAG_NO_END_STREAM, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_ERR_DEFERRED, NGHTTP2_ERR_FLOODED,
                                        NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_ERR_WOULDBLOCK, NGHTTP2_EXTPRI_DEFAULT_URGENCY,
                                        NGHTTP2_FLAG_END_HEADERS, NGHTTP2_FLAG_END_STREAM,
                                        NGHTTP2_FLAG_NONE, NGHTTP2_FLOW_CONTROL_ERROR, NGHTTP2_FRAME_SIZE_ERROR, NGHTTP2_GOAWAY, NGHTTP2_HCAT_REQUEST, NGHTTP2_HEADERS,
                                        NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_PING, NGHTTP2_PRIORITY, NGHTTP2_PROTOCOL_ERROR,
                                        NGHTTP2_REFUSED_STREAM, NGHTTP2_RST_STREAM, NGHTTP2_SETTINGS, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL,
                                        NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
                                        NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, NGHTTP2_STREAM_CLOSED,
                                        NGHTTP2_WINDOW_UPDATE, nghttp2_data_provider, nghttp2_data_source, nghttp2_extpri, nghttp2_frame, nghttp2_frame_hd, nghttp2_nv,
                                        nghttp2_option, nghttp2_option_new, nghttp2_option_set_max_outbound_ack,
                                        nghttp2_option_set_max_send_header_block_length,
                                        nghttp2_option_set_no_auto_window_update, nghttp2_option_set_no_closed_streams,
                                        nghttp2_option_set_no_http_messaging, nghttp2_session, nghttp2_session_callbacks,
                                        nghttp2_session_callbacks_new, nghttp2_session_callbacks_set_data_source_read_length_callback,
                                        nghttp2_session_callbacks_set_on_begin_frame_callback,
                                        nghttp2_session_callbacks_set_on_begin_headers_callback,
                                        nghttp2_session_callbacks_set_on_data_chunk_recv_callback,
                                        nghttp2_session_callbacks_set_on_frame_recv_callback,
                                        nghttp2_session_callbacks_set_on_frame_send_callback, nghttp2_session_callbacks_set_on_header_callback,
                                        nghttp2_session_callbacks_set_on_stream_close_callback,
                                        nghttp2_session_callbacks_set_send_data_callback, nghttp2_session_consume, nghttp2_session_del,
                                        nghttp2_session_get_last_proc_stream_id, nghttp2_session_get_stream_user_data, nghttp2_session_mem_recv,
                                        nghttp2_session_change_extpri_stream_priority, nghttp2_session_mem_send, nghttp2_session_resume_data, nghttp2_session_server_new2,
                                        nghttp2_session_set_local_window_size, nghttp2_session_set_stream_user_data,
                                        nghttp2_session_terminate_session, nghttp2_session_want_read, nghttp2_session_want_write,
                                        nghttp2_settings_entry, nghttp2_submit_goaway, nghttp2_submit_headers, nghttp2_submit_response,
                                        nghttp2_submit_rst_stream, nghttp2_submit_settings, nghttp2_submit_shutdown_notice, nghttp2_submit_trailer)
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport memcpy, unlikely
from fastlb.data_plane.types cimport (H2_CLOSED, H2_DEFERRED, H2_ENDED, H2_IN_TRAILERS, H2_MALFORMED, H2_REMOTE_ENDED, H2_RESET,
                                      H2_TOO_LARGE, HTTP2_CONTINUATION_FLOOD, HTTP2_EMPTY_DATA_FLOOD, HTTP2_HEADER_FLOOD, HTTP2_NOT_ENDED,
                                      HTTP2_OTHER_FLOOD, HTTP2_OUT_OF_MEMORY, HTTP2_PING_FLOOD, HTTP2_PRIORITY_FLOOD, HTTP2_PROTOCOL_ERROR,
                                      HTTP2_RAPID_RESETS, HTTP2_SETTINGS_FLOOD, HTTP2_WINDOW_UPDATE_FLOOD, HTTP2_WRITE_TIMEOUT, IO_AGAIN, IO_EOF, IO_ERROR,
                                      IO_READABLE, IO_READY_LISTED, IO_WRITABLE, KIND_STREAM, LINGER_MS, RELAY_READ_BYTES, STATE_EXCHANGE, STATE_HEAD,
                                      STATE_IDLE, Allowance, Buffer, Codec, Connection, Engine, Http2Session, Http2Stream, ListenerSettings)

cdef extern from *:
    """
    #ifdef FASTLB_ARCHIVES
    /* nghttp2 prints to it where it is debugged, and nowhere else. Archives that distributions compile for programs cannot be linked into a
       module while one of their names is a variable of the C library, so it gets one that is never used. */
    __attribute__((visibility("hidden"))) void* fastlb_no_stderr __asm__("stderr") = 0;
    #endif
    """

cdef enum:
    FRAME_HEAD_BYTES = 9
    # What is sent at once: what the socket does not take of it fits a block of 64 KiB, also behind a header block.
    BATCH_BYTES = 65536 - 64 - 16384 - FRAME_HEAD_BYTES
    MAX_DATA_BYTES = 16384          # of a DATA frame: what every client takes (RFC 9113 section 4.2), and streams take turns
    MIN_DATA_BYTES = 512            # less room at the end of a batch is left
    BATCHES_PER_TURN = 16           # about 1 MiB, as a relay's turn
    READS_PER_TURN = 4
    MAX_HEADER_BLOCK_BYTES = 131072     # of an answer
    # Frames that move nothing: as many at once, and then one each millisecond. What we send allows more, kept for as long as the client takes to
    # read it: Go opens a stream's window and the connection's for every 4 KiB.
    FRAME_BURST = 2000
    FRAMES_PER_DATA = 2
    BYTES_PER_FRAME = 1024
    # Streams that come to nothing by the client's doing (CVE-2023-44487, CVE-2025-8671): as many at once, and then one each 20 ms. A browser that
    # leaves a page resets what is under way, so the burst is well above any number of streams at a time that it uses.
    RESET_BURST = 400
    RESET_MS = 20
    HEADER_FLOOD_FACTOR = 8         # a header list beyond its limit is answered with 431, up to so many times the limit
    FIELD_OVERHEAD = 32             # RFC 9113 section 6.5.2
    LEAVE_MS = 1_000                # between a notice that no stream should follow, and the last one's number (RFC 9113 section 6.8)
    LATE_MS = 100
    STREAM_SHARE = 2                # streams take at most this part (a half) of the connection table


# ---------------------------------------------------------------------------------------------------------- limits
cdef inline bint spend(Allowance* allowance, uint64_t now_ms, int64_t most, int64_t amount) noexcept nogil:
    # Takes `amount` off; one comes back each millisecond, up to `most`. False: used up.
    if allowance.left < most:
        allowance.left += <int64_t>(now_ms - allowance.filled_ms)
        if allowance.left > most:
            allowance.left = most
    allowance.filled_ms = now_ms
    allowance.left -= amount
    return allowance.left >= 0


cdef inline void note_end(Http2Session* session, uint8_t end) noexcept nogil:
    # The session is to be ended, as soon as nghttp2 has returned.
    if session.end == HTTP2_NOT_ENDED:
        session.end = end


cdef uint8_t flood_of(const nghttp2_frame_hd* head) noexcept nogil:
    if head.type == NGHTTP2_PING:
        return HTTP2_PING_FLOOD
    if head.type == NGHTTP2_SETTINGS:
        return HTTP2_SETTINGS_FLOOD
    if head.type == NGHTTP2_PRIORITY:
        return HTTP2_PRIORITY_FLOOD
    if head.type == NGHTTP2_WINDOW_UPDATE:
        return HTTP2_WINDOW_UPDATE_FLOOD
    if head.type == NGHTTP2_DATA:
        return HTTP2_EMPTY_DATA_FLOOD
    if head.type == NGHTTP2_CONTINUATION:
        return HTTP2_CONTINUATION_FLOOD
    return HTTP2_OTHER_FLOOD


cdef void count_reset(Http2Session* session) noexcept nogil:
    if not spend(&session.resets, session.engine.now_ms, <int64_t>RESET_BURST * RESET_MS, RESET_MS):
        note_end(session, HTTP2_RAPID_RESETS)


# ---------------------------------------------------------------------------------------------------------- streams
cdef inline Http2Stream* stream_of(nghttp2_session* handle, int32_t id) noexcept nogil:
    return <Http2Stream*>nghttp2_session_get_stream_user_data(handle, id)


cdef Http2Stream* open_stream(Http2Session* session, int32_t id) noexcept nogil:
    # A stream with its connection. NULL: no room, or out of memory.
    cdef:
        Engine* engine = session.engine
        Connection* client = session.client
        Connection* connection
        Http2Stream* stream
    if engine.n_streams >= engine.connections.max_open // <uint32_t>STREAM_SHARE:
        return NULL
    stream = <Http2Stream*>calloc(1, sizeof(Http2Stream))
    if stream == NULL:
        return NULL
    connection = open_connection(&engine.connections, -1, KIND_STREAM)
    if connection == NULL:
        free(stream)
        return NULL
    stream.session = session
    stream.connection = connection
    stream.id = id
    stream.content_length = -1
    stream.next = session.streams
    if session.streams != NULL:
        session.streams.previous = stream
    session.streams = stream
    if session.n_streams == 0:
        session.checked_ms = engine.now_ms
    session.n_streams += 1
    session.n_exchanges += 1
    client.state = STATE_EXCHANGE
    engine.n_streams += 1
    engine.counters.http2_streams_opened += 1
    connection.http2 = stream
    connection.state = STATE_HEAD
    connection.io = IO_WRITABLE
    connection.transport = engine.http2_stream_transport
    connection.codec = engine.http2_stream_codec
    stand_for(connection, client)
    client.n_exchanges += 1
    connection.tls = client.tls                 # borrowed: it outlives its streams, whose transport does not close it
    return stream


cdef void free_stream(Http2Stream* stream) noexcept nogil:
    # nghttp2 knows it no more, and it has no connection.
    cdef:
        Http2Session* session = stream.session
        Engine* engine = session.engine
    if stream.previous != NULL:
        stream.previous.next = stream.next
    else:
        session.streams = stream.next
    if stream.next != NULL:
        stream.next.previous = stream.previous
    session.n_streams -= 1
    if session.n_streams == 0:
        session.client.state = STATE_IDLE
        session.idle_ms = engine.now_ms
    return_buffer(&engine.buffers, stream.fields)
    return_buffer(&engine.buffers, stream.input)
    return_buffer(&engine.buffers, stream.output)
    return_buffer(&engine.buffers, stream.trailers)
    return_buffer(&engine.buffers, stream.request_trailers)
    engine.counters.http2_streams_closed += 1
    free(stream)


cdef void reset_stream(Http2Stream* stream, uint32_t code) noexcept nogil:
    if stream.flags & (H2_CLOSED | H2_RESET) or stream.session.gone:
        return
    stream.flags |= H2_RESET
    nghttp2_submit_rst_stream(<nghttp2_session*>stream.session.handle, NGHTTP2_FLAG_NONE, stream.id, code)


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


cdef void consume(Engine* engine, Http2Stream* stream, uint32_t size) noexcept nogil:
    # Its exchange has taken so many bytes, or nobody will: the client may send as many again.
    cdef nghttp2_session* handle = <nghttp2_session*>stream.session.handle
    if stream.session.gone:
        return
    nghttp2_session_consume(handle, stream.id, size)
    if nghttp2_session_want_write(handle):
        list_session(engine, stream.session)


cdef void wake_output(Engine* engine, Http2Stream* stream) noexcept nogil:
    # Something of its answer waits, or all of it is here.
    if stream.session.gone:
        return
    if stream.flags & H2_DEFERRED:
        stream.flags &= ~<uint32_t>H2_DEFERRED
        nghttp2_session_resume_data(<nghttp2_session*>stream.session.handle, stream.id)
        stream.moved_ms = engine.now_ms
    list_session(engine, stream.session)


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
    session.client.trusted = connection.trusted     # worked out once for all streams
    session.client.trusted_generation = connection.trusted_generation
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


cdef bint submit_head(Engine* engine, Http2Stream* stream, const char* text, uint32_t size, bint final, bint has_body) noexcept nogil:
    # Sends a head of an answer, whose text is HTTP/1.1. `final`: it is no interim one; `has_body`: something follows it. False: it does not fit.
    cdef:
        nghttp2_session* handle = <nghttp2_session*>stream.session.handle
        nghttp2_nv fields[MAX_SENT_FIELDS]
        nghttp2_data_provider provider
        uint32_t n = list_fields(text, size, fields)
    if n == 0:
        return False
    if stream.flags & (H2_CLOSED | H2_RESET) or stream.session.gone:
        return True                             # nobody hears it; the stream's turn will say so
    if final:
        provider.source.ptr = stream
        provider.read_callback = read_output
        if nghttp2_submit_response(handle, stream.id, fields, n, &provider if has_body else NULL) != 0:
            return False
    elif nghttp2_submit_headers(handle, NGHTTP2_FLAG_NONE, stream.id, NULL, fields, n, NULL) < 0:
        return False
    list_session(engine, stream.session)
    return True


# ---------------------------------------------------------------------------------------------------------- called back while reading
cdef int on_begin_frame(nghttp2_session* handle, const nghttp2_frame_hd* head, void* data) noexcept nogil:
    cdef Http2Session* session = <Http2Session*>data
    if head.type != NGHTTP2_CONTINUATION:
        session.block_ms = 0
    if head.type == NGHTTP2_HEADERS or (head.type == NGHTTP2_DATA and head.flags & NGHTTP2_FLAG_END_STREAM):
        return 0
    if unlikely(not spend(&session.frames, session.engine.now_ms, FRAME_BURST, 1)):
        note_end(session, flood_of(head))
    return 0


cdef int on_begin_headers(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
        nghttp2_extpri turns
    session.block_ms = session.engine.now_ms
    session.block_bytes = 0
    if frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        stream = stream_of(handle, frame.hd.stream_id)
        if stream != NULL:
            stream.flags |= H2_IN_TRAILERS
        return 0
    if session.end != HTTP2_NOT_ENDED:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE    # the whole connection is about to end
    stream = open_stream(session, frame.hd.stream_id)
    if stream == NULL:
        session.engine.counters.http2_streams_refused += 1
        if frame.hd.flags & NGHTTP2_FLAG_END_HEADERS:
            session.block_ms = 0                # nghttp2 says nothing more of it
        nghttp2_submit_rst_stream(handle, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_REFUSED_STREAM)
        return 0
    nghttp2_session_set_stream_user_data(handle, frame.hd.stream_id, stream)
    # Answers take turns frame by frame. By default (RFC 9218) the oldest stream would go first while it has anything to send, and a second
    # download would meet its time-out on a slow link.
    turns.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY
    turns.inc = 1
    nghttp2_session_change_extpri_stream_priority(handle, frame.hd.stream_id, &turns, 1)
    return 0


cdef int on_header(nghttp2_session* handle, const nghttp2_frame* frame, const uint8_t* name, size_t name_size, const uint8_t* value,
                   size_t value_size, uint8_t flags, void* data) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
        uint32_t most = session.client.listener.settings.head.max_bytes
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
    if not add_field(&session.engine.buffers, &stream.request_trailers if stream.flags & H2_IN_TRAILERS else &stream.fields,
                     <const char*>name, <uint32_t>name_size, <const char*>value, <uint32_t>value_size):
        stream.flags |= H2_TOO_LARGE
    return 0


cdef void take_trailers(Engine* engine, Http2Stream* stream, bint ended) noexcept nogil:
    # The second header list is whole; it has to end the stream (RFC 9113 section 8.1).
    cdef Buffer* fields = stream.request_trailers
    stream.request_trailers = NULL
    if not ended or stream.flags & H2_TOO_LARGE or not make_trailers(&engine.buffers, fields, &stream.request_trailers):
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
        nghttp2_session_consume(handle, id, size)
        return 0
    stream.received += <int64_t>size
    if stream.content_length >= 0 and stream.received > stream.content_length:
        nghttp2_session_consume(handle, id, size)
        mark_malformed(engine, stream)
        return 0
    if not append_bytes(&engine.buffers, &stream.input, <const char*>bytes, <uint32_t>size):
        nghttp2_session_consume(handle, id, size)
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
cdef ssize_t read_length(nghttp2_session* handle, uint8_t type, int32_t id, int32_t session_window, int32_t stream_window,
                         uint32_t max_frame_bytes, void* data) noexcept nogil:
    # How long the next DATA frame may be: as the windows allow, and up to the end of the batch.
    cdef:
        Http2Session* session = <Http2Session*>data
        int64_t size = session.batch_end - session.batch - FRAME_HEAD_BYTES
    if size < MIN_DATA_BYTES:
        size = MAX_DATA_BYTES                   # it waits for the next batch (copy_output), rather than be cut into crumbs
    if size > session_window:
        size = session_window
    if size > stream_window:
        size = stream_window
    return size if size < MAX_DATA_BYTES else MAX_DATA_BYTES


cdef ssize_t read_output(nghttp2_session* handle, int32_t id, uint8_t* bytes, size_t size, uint32_t* flags, nghttp2_data_source* source,
                         void* data) noexcept nogil:
    # Says how many bytes the next DATA frame of a stream gets; copy_output puts them there.
    cdef:
        Http2Stream* stream = <Http2Stream*>source.ptr
        uint32_t held = output_held(stream)
        nghttp2_nv fields[MAX_SENT_FIELDS]
        uint32_t n
    if stream.flags & (H2_RESET | H2_CLOSED):
        return NGHTTP2_ERR_DEFERRED             # it ends before this could be sent
    if held == 0 and not stream.flags & H2_ENDED:
        stream.flags |= H2_DEFERRED
        return NGHTTP2_ERR_DEFERRED
    flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    if held > size:
        return <ssize_t>size
    if stream.flags & H2_ENDED:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF
        if stream.flags & H2_MALFORMED:
            flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM     # a stream that has ended could not be reset: on_frame_send
        elif unlikely(stream.trailers != NULL):
            n = list_fields(stream.trailers.data + stream.trailers.start, stream.trailers.end - stream.trailers.start, fields)
            if n != 0 and nghttp2_submit_trailer(handle, id, fields, n) == 0:
                flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
    return <ssize_t>held


cdef int copy_output(nghttp2_session* handle, nghttp2_frame* frame, const uint8_t* head, size_t size, nghttp2_data_source* source,
                     void* data) noexcept nogil:
    # Puts a DATA frame into the batch.
    cdef:
        Http2Session* session = <Http2Session*>data
        Engine* engine = session.engine
        Http2Stream* stream = <Http2Stream*>source.ptr
    if unlikely(stream.flags & (H2_RESET | H2_CLOSED) or output_held(stream) < size):
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE    # it was promised for an earlier batch, and its exchange has failed since
    if session.batch + FRAME_HEAD_BYTES + size > session.batch_end:
        return NGHTTP2_ERR_WOULDBLOCK
    memcpy(session.batch, head, FRAME_HEAD_BYTES)
    session.batch += FRAME_HEAD_BYTES
    session.frames.left += FRAMES_PER_DATA + <int64_t>(size // BYTES_PER_FRAME)
    if size == 0:
        return 0
    memcpy(session.batch, stream.output.data + stream.output.start, size)
    session.batch += size
    stream.output.start += <uint32_t>size
    stream.moved_ms = engine.now_ms
    if stream.output.start == stream.output.end:
        return_buffer(&engine.buffers, stream.output)
        stream.output = NULL
    if stream.connection != NULL and not stream.connection.io & IO_WRITABLE:
        stream.connection.io |= IO_WRITABLE
        list_ready(engine, stream.connection)
    return 0


cdef int on_frame_send(nghttp2_session* handle, const nghttp2_frame* frame, void* data) noexcept nogil:
    # A frame of ours is in the batch. The end of an answer to a request that is malformed, or that has not ended, is followed by a reset: the
    # client is not to send the rest (RFC 9113 section 8.1).
    cdef:
        Http2Session* session = <Http2Session*>data
        Http2Stream* stream
        uint32_t code
    if frame.hd.type == NGHTTP2_RST_STREAM:
        session.engine.counters.http2_resets_sent += 1
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
cdef nghttp2_session_callbacks* CALLBACKS = NULL
cdef nghttp2_option* OPTIONS = NULL


def _make_callbacks() -> None:
    # Once, when the module is imported: both are only read afterwards.
    global CALLBACKS, OPTIONS
    if nghttp2_session_callbacks_new(&CALLBACKS) != 0 or nghttp2_option_new(&OPTIONS) != 0:
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_frame_callback(CALLBACKS, on_begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(CALLBACKS, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(CALLBACKS, on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(CALLBACKS, on_frame_recv)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(CALLBACKS, on_data)
    nghttp2_session_callbacks_set_on_stream_close_callback(CALLBACKS, on_stream_close)
    nghttp2_session_callbacks_set_on_frame_send_callback(CALLBACKS, on_frame_send)
    nghttp2_session_callbacks_set_send_data_callback(CALLBACKS, copy_output)
    nghttp2_session_callbacks_set_data_source_read_length_callback(CALLBACKS, read_length)
    nghttp2_option_set_no_auto_window_update(OPTIONS, 1)
    nghttp2_option_set_no_http_messaging(OPTIONS, 1)
    nghttp2_option_set_no_closed_streams(OPTIONS, 1)
    nghttp2_option_set_max_outbound_ack(OPTIONS, RELAY_READ_BYTES // FRAME_HEAD_BYTES)      # FRAME_BURST comes before it
    nghttp2_option_set_max_send_header_block_length(OPTIONS, MAX_HEADER_BLOCK_BYTES)


_make_callbacks()


cdef bint open_session(Engine* engine, Connection* client) noexcept nogil:
    # Our preface is ready to be sent. False: out of memory.
    cdef:
        const ListenerSettings* settings = &client.listener.settings
        Http2Session* session = <Http2Session*>calloc(1, sizeof(Http2Session))
        nghttp2_session* handle
        nghttp2_settings_entry entries[5]
    if session == NULL:
        return False
    if nghttp2_session_server_new2(&handle, CALLBACKS, session, OPTIONS) != 0:
        free(session)
        return False
    session.handle = handle
    session.engine = engine
    session.client = client
    session.end = HTTP2_NOT_ENDED
    session.frames.left = FRAME_BURST
    session.resets.left = <int64_t>RESET_BURST * RESET_MS
    session.frames.filled_ms = session.resets.filled_ms = session.idle_ms = session.written_ms = engine.now_ms
    client.http2 = session
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
    return (nghttp2_submit_settings(handle, NGHTTP2_FLAG_NONE, entries, 5) == 0
            and nghttp2_session_set_local_window_size(handle, NGHTTP2_FLAG_NONE, 0, <int32_t>settings.http2_connection_window_bytes) == 0)


cdef void close_session(Engine* engine, Connection* client, bint reset) noexcept nogil:
    # The client's connection closes, or goes on without HTTP/2: every exchange and stream ends.
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        nghttp2_session* handle = <nghttp2_session*>session.handle
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
    nghttp2_session_del(handle)
    return_buffer(&engine.buffers, session.held)
    client.http2 = NULL
    engine.counters.http2_sessions_closed += 1
    free(session)


cdef inline void list_session(Engine* engine, Http2Session* session) noexcept nogil:
    # It has something to send, or to end. While the socket takes nothing an event will bring it on.
    if session.client.io & IO_WRITABLE or session.gone:
        list_ready(engine, session.client)


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
    list_ready(engine, session.client)          # behind them


cdef void finish_session(Engine* engine, Connection* client) noexcept nogil:
    # No exchange is left. What the client still sends is read for a while, so that our GOAWAY is not lost to a reset.
    if client.io & (IO_EOF | IO_ERROR):
        close_connection(engine, client, False)
        return
    close_session(engine, client, False)
    client.codec = engine.client_codec
    linger(engine, client, LINGER_MS)


cdef void end_session(Http2Session* session) noexcept nogil:
    # With a GOAWAY, behind which the connection closes. May be called again.
    nghttp2_session_terminate_session(<nghttp2_session*>session.handle, NGHTTP2_PROTOCOL_ERROR if session.end == HTTP2_PROTOCOL_ERROR
                                      else NGHTTP2_ENHANCE_YOUR_CALM)


cdef bint read_frames(Engine* engine, Connection* client) noexcept nogil:
    # Hands what has come to nghttp2. False: nothing more will be read.
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        uint32_t n_reads = 0
        ssize_t n
    while client.io & IO_READABLE and session.held == NULL:
        if n_reads == READS_PER_TURN:
            list_ready(engine, client)
            return True
        n_reads += 1
        n = client.transport.receive(engine, client, engine.read_buffer, RELAY_READ_BYTES)
        if n == IO_AGAIN:
            return True
        if n <= 0:
            leave_session(engine, session)
            return False
        engine.counters.client_bytes_in += <uint64_t>n
        count_client_in(engine, client, <uint64_t>n)
        if not take_frames(engine, session, engine.read_buffer, <uint32_t>n):
            return False
    return True


cdef bint take_frames(Engine* engine, Http2Session* session, const char* data, uint32_t size) noexcept nogil:
    # False: the connection is to end.
    cdef ssize_t result = nghttp2_session_mem_recv(<nghttp2_session*>session.handle, <const uint8_t*>data, size)
    if result < 0:
        # CONTINUATIONs without end, acknowledgements that nobody reads, a preface that is none, out of memory. No frame can be trusted any more.
        note_end(session, HTTP2_HEADER_FLOOD if session.block_ms else HTTP2_SETTINGS_FLOOD if result == NGHTTP2_ERR_FLOODED else HTTP2_PROTOCOL_ERROR)
    return session.end == HTTP2_NOT_ENDED


cdef bint gather_frames(Engine* engine, Http2Session* session) noexcept nogil:
    # Writes frames into engine.write_buffer, up to session.batch. False: out of memory.
    cdef:
        const uint8_t* frame
        ssize_t n
    session.batch = engine.write_buffer
    session.batch_end = engine.write_buffer + BATCH_BYTES
    while session.batch + FRAME_HEAD_BYTES < session.batch_end:
        n = nghttp2_session_mem_send(<nghttp2_session*>session.handle, &frame)
        if n < 0:
            return False
        if n == 0:
            break                               # nothing more now: windows are closed, or a DATA frame waits for the next batch
        memcpy(session.batch, frame, <size_t>n)
        session.batch += n
    return True


cdef bint write_frames(Engine* engine, Connection* client) noexcept nogil:
    # Sends what waits, as far as the socket takes it. False: the connection failed.
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        Buffer* held
        uint32_t _turn, size
        ssize_t n
    for _turn in range(BATCHES_PER_TURN):
        if not client.io & IO_WRITABLE:
            return True
        held = session.held
        if held != NULL:
            n = client.transport.send(engine, client, held.data + held.start, held.end - held.start)
            if n == IO_AGAIN:
                return True
            if n < 0:
                return False
            count_sent(engine, session, <uint64_t>n)
            held.start += <uint32_t>n
            if held.start < held.end:
                return True
            return_buffer(&engine.buffers, held)
            session.held = NULL
        if not gather_frames(engine, session):
            note_end(session, HTTP2_OUT_OF_MEMORY)
            return False
        size = <uint32_t>(session.batch - engine.write_buffer)
        if size == 0:
            return True
        n = client.transport.send(engine, client, engine.write_buffer, size)
        if n == IO_AGAIN:
            n = 0
        if n < 0:
            return False
        count_sent(engine, session, <uint64_t>n)
        if <uint32_t>n < size and not append_bytes(&engine.buffers, &session.held, engine.write_buffer + n, size - <uint32_t>n):
            note_end(session, HTTP2_OUT_OF_MEMORY)
            return False
    list_ready(engine, client)
    return True


cdef inline void count_sent(Engine* engine, Http2Session* session, uint64_t size) noexcept nogil:
    # What its streams' answers are is counted for routes and pools where they take it.
    session.written_ms = engine.now_ms
    engine.counters.client_bytes_out += size
    engine.meters[session.client.listener.meter].bytes_out += size


cdef void tell_to_leave(Engine* engine, Http2Session* session) noexcept nogil:
    # This worker, or this listener, serves no new client: first a notice, and when the client has had time to read it the number of the last
    # stream that is served. None is lost between (RFC 9113 section 6.8).
    cdef nghttp2_session* handle = <nghttp2_session*>session.handle
    if session.told_ms == 0:
        session.told_ms = engine.now_ms
        nghttp2_submit_shutdown_notice(handle)
    elif not session.has_left and engine.now_ms >= session.told_ms + LEAVE_MS:
        session.has_left = True
        nghttp2_submit_goaway(handle, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(handle), NGHTTP2_NO_ERROR, NULL, 0)


cdef inline bint must_leave(const Engine* engine, const Connection* client) noexcept nogil:
    return engine.draining or client.listener.removed or client.close_after_idle


cdef void session_ready(Engine* engine, Connection* client) noexcept nogil:
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        nghttp2_session* handle = <nghttp2_session*>session.handle
    if unlikely(session.gone):
        if session.n_exchanges == 0:
            finish_session(engine, client)
        return
    if unlikely(client.io & IO_ERROR):
        leave_session(engine, session)
        return
    # Where others are to have their turn first (IO_READY_LISTED), their frames go with ours.
    if not client.io & IO_READY_LISTED and (session.held != NULL or nghttp2_session_want_write(handle)) and not write_frames(engine, client):
        leave_session(engine, session)
        return
    if session.end == HTTP2_NOT_ENDED and not read_frames(engine, client) and session.gone:
        return
    if unlikely(session.end != HTTP2_NOT_ENDED):
        end_session(session)
    elif unlikely(must_leave(engine, client)):
        tell_to_leave(engine, session)
    if nghttp2_session_want_write(handle):
        list_session(engine, session)
    elif unlikely(session.held == NULL and not nghttp2_session_want_read(handle)):
        leave_session(engine, session)          # a GOAWAY has gone, and no stream is left that it lets finish
        return
    arm(engine, session)


cdef void arm(Engine* engine, Http2Session* session) noexcept nogil:
    # When this connection is looked at again, if nothing happens.
    cdef:
        const ListenerSettings* settings = &session.client.listener.settings
        uint64_t when = engine.now_ms + settings.idle_timeout_ms
    if session.n_streams == 0:
        when = session.idle_ms + (settings.idle_timeout_ms if session.client.n_exchanges else settings.head_timeout_ms)
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
        if session.client.timer.link != NULL and session.client.timer.deadline_ms <= engine.now_ms + LATE_MS:
            return                              # it fires soon, whatever the client says until then
        when = engine.now_ms + LATE_MS          # a deadline in the past would fire for ever
    set_deadline(engine, session.client, when)


cdef void reset_stalled(Engine* engine, Http2Session* session) noexcept nogil:
    # Whole answers whose streams' windows stay closed; those that still run are their exchanges' to end.
    cdef:
        Http2Stream* stream = session.streams
        uint64_t most = session.client.listener.settings.write_timeout_ms
    while stream != NULL:
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
        nghttp2_session_terminate_session(<nghttp2_session*>session.handle, NGHTTP2_NO_ERROR)
    elif session.told_ms:
        tell_to_leave(engine, session)
    if nghttp2_session_want_write(<nghttp2_session*>session.handle):
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
CLIENT.send_informational = NULL
CLIENT.send_head = NULL
CLIENT.send_local = NULL
CLIENT.send_answer = NULL
CLIENT.end = NULL
CLIENT.reset = NULL
CLIENT.switch_to_tunnel = NULL
CLIENT.send_request = NULL
CLIENT.adopt = adopt
CLIENT.close = close_session


cdef const Codec* http2_client_codec() noexcept nogil:
    return &CLIENT
