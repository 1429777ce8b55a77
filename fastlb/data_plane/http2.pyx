"""HTTP/2, for clients and for backends: a session is a connection that speaks it, and this is the only module that calls nghttp2, which frames,
compresses and counts windows. What only sessions of clients do is in http2_client.pyx, what only those of backends do in http2_backend.pyx; what
a stream is to its exchange in http2_stream.pyx and http2_backend_stream.pyx; heads are translated in http2_head.pyx.

A session owns its streams; a stream has a connection without a descriptor while its exchange, or attempt, runs, and then stays until its last
frame has gone. What nghttp2 calls back only notes and lists: no exchange ever runs inside of it. A stream's turn comes from the engine's ready
list, and so does the session's where something is to be sent, so that frames of several streams leave in one send.

Windows are opened again only when an exchange has taken the bytes; what waits to be sent is bounded for each stream (its transport does that);
while a client's socket takes nothing, nothing is read of it. Who costs more than it moves is ended with ENHANCE_YOUR_CALM (Http2Session.frames). Checks of HTTP
(RFC 9113 section 8) are ours and not nghttp2's, so that a malformed request can be answered before it is reset.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.http2_frames cimport FRAME_HEAD_BYTES, PREFACE_BYTES, walk_frames
from fastlb.data_plane.http2_head cimport MAX_SENT_FIELDS, list_fields, list_request
from fastlb.data_plane.meters cimport count_client_in
from fastlb.data_plane.nghttp2 cimport (NGHTTP2_CONTINUATION, NGHTTP2_DATA, NGHTTP2_DATA_FLAG_EOF, NGHTTP2_DATA_FLAG_NO_COPY,
                                        NGHTTP2_DATA_FLAG_NO_END_STREAM, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_ERR_DEFERRED, NGHTTP2_ERR_FLOODED,
                                        NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_ERR_WOULDBLOCK, NGHTTP2_EXTPRI_DEFAULT_URGENCY,
                                        NGHTTP2_FLAG_NONE, NGHTTP2_NO_ERROR, NGHTTP2_PING, NGHTTP2_PRIORITY, NGHTTP2_PROTOCOL_ERROR,
                                        NGHTTP2_REFUSED_STREAM, NGHTTP2_SETTINGS, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL,
                                        NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_STREAM_CLOSED, NGHTTP2_WINDOW_UPDATE, nghttp2_data_provider,
                                        nghttp2_data_source, nghttp2_extpri, nghttp2_frame, nghttp2_frame_hd, nghttp2_nv, nghttp2_option,
                                        nghttp2_option_new, nghttp2_option_set_max_outbound_ack, nghttp2_option_set_max_send_header_block_length,
                                        nghttp2_option_set_no_auto_window_update, nghttp2_option_set_no_closed_streams,
                                        nghttp2_option_set_no_http_messaging, nghttp2_session, nghttp2_session_callbacks,
                                        nghttp2_session_callbacks_new, nghttp2_session_callbacks_set_data_source_read_length_callback,
                                        nghttp2_session_callbacks_set_on_begin_frame_callback,
                                        nghttp2_session_callbacks_set_on_begin_headers_callback,
                                        nghttp2_session_callbacks_set_on_data_chunk_recv_callback,
                                        nghttp2_session_callbacks_set_on_frame_recv_callback,
                                        nghttp2_session_callbacks_set_on_frame_send_callback, nghttp2_session_callbacks_set_on_header_callback,
                                        nghttp2_session_callbacks_set_on_stream_close_callback,
                                        nghttp2_session_callbacks_set_send_data_callback, nghttp2_session_change_extpri_stream_priority,
                                        nghttp2_session_client_new2, nghttp2_session_consume, nghttp2_session_del,
                                        nghttp2_session_get_last_proc_stream_id, nghttp2_session_get_remote_settings,
                                        nghttp2_session_get_stream_user_data, nghttp2_session_mem_recv, nghttp2_session_mem_send,
                                        nghttp2_session_resume_data, nghttp2_session_server_new2, nghttp2_session_set_local_window_size,
                                        nghttp2_session_set_stream_user_data, nghttp2_session_terminate_session, nghttp2_session_want_read,
                                        nghttp2_session_want_write, nghttp2_settings_entry, nghttp2_submit_goaway, nghttp2_submit_headers, nghttp2_submit_ping,
                                        nghttp2_submit_request, nghttp2_submit_response, nghttp2_submit_rst_stream, nghttp2_submit_settings,
                                        nghttp2_submit_shutdown_notice, nghttp2_submit_trailer)
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport memcmp, memcpy, unlikely
from fastlb.data_plane.types cimport (H2_CLOSED, H2_CONNECT, H2_DEFERRED, H2_ENDED, H2_MALFORMED, H2_RESET, HTTP2_CONTINUATION_FLOOD, HTTP2_EMPTY_DATA_FLOOD,
                                      HTTP2_HEADER_FLOOD, HTTP2_NOT_ENDED, HTTP2_OTHER_FLOOD, HTTP2_OUT_OF_MEMORY, HTTP2_PING_FLOOD,
                                      HTTP2_PRIORITY_FLOOD, HTTP2_PROTOCOL_ERROR, HTTP2_SETTINGS_FLOOD, HTTP2_WINDOW_UPDATE_FLOOD, IO_AGAIN, IO_CLOSED,
                                      IO_READABLE, IO_WRITABLE, KIND_BACKEND, KIND_CLIENT, RELAY_READ_BYTES, Buffer, Connection, Engine, Http2Session,
                                      Http2Stream)

cdef extern from *:
    """
    #ifdef FASTLB_ARCHIVES
    /* nghttp2 prints to it where it is debugged, and nowhere else. Archives that distributions compile for programs cannot be linked into a
       module while one of their names is a variable of the C library, so it gets one that is never used. */
    __attribute__((visibility("hidden"))) void* fastlb_no_stderr __asm__("stderr") = 0;
    #endif
    """

cdef enum:
    # What is sent at once: what the socket does not take of it fits a block of 64 KiB, also behind a header block.
    BATCH_BYTES = 65536 - 64 - 16384 - FRAME_HEAD_BYTES
    MAX_DATA_BYTES = 16384          # of a DATA frame: what everybody takes (RFC 9113 section 4.2), and streams take turns
    MIN_DATA_BYTES = 512            # less room at the end of a batch is left
    BATCHES_PER_TURN = 16           # about 1 MiB, as a relay's turn
    READS_PER_TURN = 4
    MAX_HEADER_BLOCK_BYTES = 131072     # of what we send
    FRAMES_PER_DATA = 2
    BYTES_PER_FRAME = 1024
    OUTPUT_BYTES = 65536 - 64       # of a stream: with the buffer's own struct a block of 64 KiB


# ---------------------------------------------------------------------------------------------------------- limits
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


cdef void count_frame(Http2Session* session, const nghttp2_frame_hd* head) noexcept nogil:
    # A frame begins that may move nothing. More of them than what we send accounts for end the session.
    if unlikely(not spend(&session.frames, session.engine.now_ms, FRAME_BURST, 1)):
        note_end(session, flood_of(head))


cdef void count_unseen(Http2Session* session) noexcept nogil:
    # Frames that nghttp2 has passed over: as many as may move nothing, and no more DATA than could have been under way when we reset its streams.
    if session.unseen_frames != 0 and not spend(&session.frames, session.engine.now_ms, FRAME_BURST, session.unseen_frames):
        note_end(session, HTTP2_OTHER_FLOOD)
    session.late_bytes -= session.unseen_bytes
    session.unseen_frames = 0
    session.unseen_bytes = 0
    if session.late_bytes < 0:
        end_broken(session, NGHTTP2_STREAM_CLOSED)


# ---------------------------------------------------------------------------------------------------------- streams
cdef Http2Stream* stream_of(nghttp2_session* handle, int32_t id) noexcept nogil:
    return <Http2Stream*>nghttp2_session_get_stream_user_data(handle, id)


cdef Http2Stream* add_stream(Http2Session* session, Connection* connection) noexcept nogil:
    # A stream for this connection, which gets its number later. NULL: out of memory.
    cdef Http2Stream* stream = <Http2Stream*>calloc(1, sizeof(Http2Stream))
    if stream == NULL:
        return NULL
    stream.session = session
    stream.connection = connection
    stream.content_length = -1
    stream.flags = session.stream_flags
    stream.next = session.streams
    if session.streams != NULL:
        session.streams.previous = stream
    session.streams = stream
    if session.n_streams == 0:
        session.checked_ms = session.engine.now_ms
    session.n_streams += 1
    session.n_exchanges += 1
    connection.http2 = stream
    connection.io = IO_WRITABLE
    return stream


cdef void drop_stream(Http2Stream* stream) noexcept nogil:
    # nghttp2 knows it no more, and it has no connection. Its session may be idle from here on.
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
        session.idle_ms = engine.now_ms
    return_buffer(&engine.buffers, stream.fields)
    return_buffer(&engine.buffers, stream.input)
    return_buffer(&engine.buffers, stream.output)
    return_buffer(&engine.buffers, stream.trailers)
    return_buffer(&engine.buffers, stream.received_trailers)
    return_buffer(&engine.buffers, stream.head)
    free(stream)


cdef void reset_stream(Http2Stream* stream, uint32_t code) noexcept nogil:
    if stream.flags & (H2_CLOSED | H2_RESET) or stream.session.gone:
        return
    stream.flags |= H2_RESET
    nghttp2_submit_rst_stream(<nghttp2_session*>stream.session.handle, NGHTTP2_FLAG_NONE, stream.id, code)


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


# ---------------------------------------------------------------------------------------------------------- bytes of streams, for their transports
cdef uint32_t take_input(Engine* engine, Http2Stream* stream, char* data, uint32_t size) noexcept nogil:
    # Up to `size` of what has come, of a stream that has something (`input`): how many. The other side may send as many again.
    cdef:
        Buffer* input = stream.input
        uint32_t n = input.end - input.start
    if n > size:
        n = size
    memcpy(data, input.data + input.start, n)
    input.start += n
    if input.start == input.end:
        return_buffer(&engine.buffers, input)
        stream.input = NULL
    consume(engine, stream, n)
    return n


cdef ssize_t put_output(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    # As Transport.send, of a stream's connection: bytes for frames to come.
    cdef:
        Http2Stream* stream = <Http2Stream*>connection.http2
        uint32_t room = OUTPUT_BYTES - output_held(stream)
        uint32_t n = room if size > room else <uint32_t>size
    if stream.flags & (H2_CLOSED | H2_RESET):
        return IO_CLOSED
    if n < size:
        connection.io &= ~<uint32_t>IO_WRITABLE     # until frames have taken some
        if n == 0:
            return IO_AGAIN
    if not append_bytes(&engine.buffers, &stream.output, data, n):
        return IO_CLOSED
    wake_output(engine, stream)
    return n


cdef ssize_t put_parts(Engine* engine, Connection* connection, const char** parts, const size_t* sizes, int n_parts) noexcept nogil:
    # As Transport.send_parts, by its send.
    cdef:
        ssize_t sent = 0, n
        int i
    for i in range(n_parts):
        if sizes[i] == 0:
            continue
        n = connection.transport.send(engine, connection, parts[i], sizes[i])
        if n < 0:
            return sent if sent else n
        sent += n
        if <size_t>n < sizes[i]:
            break
    return sent


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


cdef int submit_request(Engine* engine, Http2Stream* stream, const char* text, uint32_t size, bint has_body, bint is_tls, bint wants_trailers) noexcept nogil:
    # Sends the head of a request, whose text is HTTP/1.1: of a WebSocket where the stream is H2_CONNECT. `has_body`: something follows it. SUBMITTED,
    # TOO_MANY_FIELDS, or NO_NUMBER: this session has no number for it.
    cdef:
        nghttp2_session* handle = <nghttp2_session*>stream.session.handle
        nghttp2_nv fields[MAX_SENT_FIELDS]
        nghttp2_data_provider provider
        uint32_t n = list_request(text, size, is_tls, wants_trailers, stream.flags & H2_CONNECT != 0, fields)
        int32_t id
    if n == 0:
        return TOO_MANY_FIELDS
    provider.source.ptr = stream
    provider.read_callback = read_output
    id = nghttp2_submit_request(handle, NULL, fields, n, &provider if has_body else NULL, stream)
    if id < 0:
        return NO_NUMBER
    stream.id = id
    list_session(engine, stream.session)
    return SUBMITTED


cdef bint begin_stream(Http2Stream* stream) noexcept nogil:
    # nghttp2 knows a stream that a client has opened by this from here on. Answers take turns frame by frame: by default (RFC 9218) the oldest
    # stream would go first while it has anything to send, and a second download would meet its time-out on a slow link.
    cdef:
        nghttp2_session* handle = <nghttp2_session*>stream.session.handle
        nghttp2_extpri turns
    turns.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY
    turns.inc = 1
    return (nghttp2_session_set_stream_user_data(handle, stream.id, stream) == 0
            and nghttp2_session_change_extpri_stream_priority(handle, stream.id, &turns, 1) == 0)


cdef void refuse_stream(nghttp2_session* handle, int32_t id) noexcept nogil:
    nghttp2_submit_rst_stream(handle, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM)


cdef void drop_bytes(nghttp2_session* handle, int32_t id, size_t size) noexcept nogil:
    # Body bytes that nobody takes.
    nghttp2_session_consume(handle, id, size)


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


# ---------------------------------------------------------------------------------------------------------- the session
cdef nghttp2_option* OPTIONS = NULL


def _make_options() -> None:
    # Once, when the module is imported: it is only read afterwards.
    global OPTIONS
    if nghttp2_option_new(&OPTIONS) != 0:
        raise MemoryError
    nghttp2_option_set_no_auto_window_update(OPTIONS, 1)
    nghttp2_option_set_no_http_messaging(OPTIONS, 1)
    nghttp2_option_set_no_closed_streams(OPTIONS, 1)
    nghttp2_option_set_max_outbound_ack(OPTIONS, RELAY_READ_BYTES // FRAME_HEAD_BYTES)      # FRAME_BURST comes before it
    nghttp2_option_set_max_send_header_block_length(OPTIONS, MAX_HEADER_BLOCK_BYTES)


_make_options()


cdef nghttp2_session_callbacks* make_callbacks(const SessionCalls* calls) except NULL:  # with the GIL: only when a module is imported
    cdef nghttp2_session_callbacks* callbacks
    if nghttp2_session_callbacks_new(&callbacks) != 0:
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, calls.begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, calls.begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, calls.header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, calls.frame_recv)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, calls.data)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, calls.stream_close)
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, calls.frame_send)
    nghttp2_session_callbacks_set_send_data_callback(callbacks, copy_output)
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, read_length)
    return callbacks


cdef Http2Session* make_session(Engine* engine, Connection* connection, const nghttp2_session_callbacks* callbacks) noexcept nogil:
    # The session of this connection, which owns it. NULL: out of memory.
    cdef:
        Http2Session* session = <Http2Session*>calloc(1, sizeof(Http2Session))
        nghttp2_session* handle
        int result
    if session == NULL:
        return NULL
    if connection.kind == KIND_CLIENT:
        result = nghttp2_session_server_new2(&handle, callbacks, session, OPTIONS)
    else:
        result = nghttp2_session_client_new2(&handle, callbacks, session, OPTIONS)
    if result != 0:
        free(session)
        return NULL
    session.handle = handle
    session.engine = engine
    session.connection = connection
    session.end = HTTP2_NOT_ENDED
    session.frames.left = FRAME_BURST
    session.frame_left = PREFACE_BYTES if connection.kind == KIND_CLIENT else 0
    session.frames.filled_ms = session.resets.filled_ms = session.idle_ms = session.written_ms = engine.now_ms
    connection.http2 = session
    return session


cdef bint submit_preface(Http2Session* session, const nghttp2_settings_entry* entries, size_t n, int32_t window_bytes) noexcept nogil:
    # Our settings are ready to be sent; `window_bytes` is the whole connection's. False: out of memory.
    cdef nghttp2_session* handle = <nghttp2_session*>session.handle
    session.late_bytes = window_bytes           # before a reset of ours has gone, and allows more (allow_late_data)
    return (nghttp2_submit_settings(handle, NGHTTP2_FLAG_NONE, entries, n) == 0
            and nghttp2_session_set_local_window_size(handle, NGHTTP2_FLAG_NONE, 0, window_bytes) == 0)


cdef void free_session(Http2Session* session) noexcept nogil:
    # No stream is left.
    return_buffer(&session.engine.buffers, session.held)
    session.connection.http2 = NULL
    free(session)


cdef void free_handle(void* handle) noexcept nogil:
    nghttp2_session_del(<nghttp2_session*>handle)


cdef uint32_t remote_streams(const Http2Session* session) noexcept nogil:
    # How many streams the other side allows at a time; 100 until it has said so.
    return nghttp2_session_get_remote_settings(<nghttp2_session*>session.handle, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)


cdef bint remote_allows_connect(const Http2Session* session) noexcept nogil:
    # Whether it takes WebSockets (RFC 8441 section 3).
    return nghttp2_session_get_remote_settings(<nghttp2_session*>session.handle, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1


cdef bint wants_write(const Http2Session* session) noexcept nogil:
    return nghttp2_session_want_write(<nghttp2_session*>session.handle) != 0


cdef bint wants_read(const Http2Session* session) noexcept nogil:
    return nghttp2_session_want_read(<nghttp2_session*>session.handle) != 0


cdef void list_session(Engine* engine, Http2Session* session) noexcept nogil:
    # It has something to send, or to end. While the socket takes nothing an event will bring it on.
    if session.connection.io & IO_WRITABLE or session.gone:
        list_ready(engine, session.connection)


cdef void end_session(Http2Session* session) noexcept nogil:
    # With a GOAWAY, behind which the connection closes. May be called again.
    nghttp2_session_terminate_session(<nghttp2_session*>session.handle, NGHTTP2_PROTOCOL_ERROR if session.end == HTTP2_PROTOCOL_ERROR
                                      else NGHTTP2_ENHANCE_YOUR_CALM)


cdef void end_idle(Http2Session* session) noexcept nogil:
    # Nobody uses it any more: a GOAWAY without a reproach.
    nghttp2_session_terminate_session(<nghttp2_session*>session.handle, NGHTTP2_NO_ERROR)


cdef void end_broken(Http2Session* session, uint32_t code) noexcept nogil:
    # What has come breaks the protocol, in a way that nghttp2 does not mind.
    nghttp2_session_terminate_session(<nghttp2_session*>session.handle, code)
    note_end(session, HTTP2_PROTOCOL_ERROR)


cdef void send_ping(Http2Session* session) noexcept nogil:
    # Whoever is there answers it.
    nghttp2_submit_ping(<nghttp2_session*>session.handle, NGHTTP2_FLAG_NONE, NULL)


cdef void announce_leave(Http2Session* session) noexcept nogil:
    # No stream should follow; those that do are still served.
    nghttp2_submit_shutdown_notice(<nghttp2_session*>session.handle)


cdef void announce_last(Http2Session* session) noexcept nogil:
    # No later stream will be served.
    cdef nghttp2_session* handle = <nghttp2_session*>session.handle
    nghttp2_submit_goaway(handle, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(handle), NGHTTP2_NO_ERROR, NULL, 0)


cdef void note_http1(Engine* engine, Http2Session* session, size_t size) noexcept nogil:
    # The first bytes have come: those of a backend that does not speak HTTP/2 are told from nonsense.
    if session.connection.kind == KIND_BACKEND and size >= 7 and memcmp(engine.read_buffer, b"HTTP/1.", 7) == 0:
        session.speaks_http1 = True
        note_end(session, HTTP2_PROTOCOL_ERROR)


cdef bint read_frames(Engine* engine, Connection* connection, bint* lost) noexcept nogil:
    # Hands what has come to nghttp2. False: nothing more will be read, because the connection is over (*lost) or is to be ended. A client that does
    # not read is not read either. A backend is, as it may wait for the same; windows and FRAME_BURST bound what that may cause to be sent.
    cdef:
        Http2Session* session = <Http2Session*>connection.http2
        uint32_t n_reads = 0
        ssize_t n
    while connection.io & IO_READABLE and (session.held == NULL or connection.kind == KIND_BACKEND):
        if n_reads == READS_PER_TURN:
            list_ready(engine, connection)
            return True
        n_reads += 1
        n = connection.transport.receive(engine, connection, engine.read_buffer, RELAY_READ_BYTES)
        if n == IO_AGAIN:
            return True
        if n <= 0:
            lost[0] = True
            return False
        count_received(engine, connection, <uint64_t>n)
        if unlikely(session.received_ms == 0):
            note_http1(engine, session, <size_t>n)
        session.received_ms = engine.now_ms
        if not take_frames(engine, session, engine.read_buffer, <uint32_t>n):
            return False
    return True


cdef bint take_frames(Engine* engine, Http2Session* session, const char* data, uint32_t size) noexcept nogil:
    # False: the connection is to end.
    cdef:
        uint32_t whole = walk_frames(session, <const uint8_t*>data, size)
        ssize_t result = nghttp2_session_mem_recv(<nghttp2_session*>session.handle, <const uint8_t*>data, whole)
    if unlikely(session.broken != 0):
        end_broken(session, session.broken)
    elif unlikely(session.unseen_frames != 0 or session.unseen_bytes > 0):
        count_unseen(session)
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


cdef bint write_frames(Engine* engine, Connection* connection) noexcept nogil:
    # Sends what waits, as far as the socket takes it. False: the connection failed.
    cdef:
        Http2Session* session = <Http2Session*>connection.http2
        Buffer* held
        uint32_t _turn, size
        ssize_t n
    for _turn in range(BATCHES_PER_TURN):
        if not connection.io & IO_WRITABLE:
            return True
        held = session.held
        if held != NULL:
            n = connection.transport.send(engine, connection, held.data + held.start, held.end - held.start)
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
            session.checked_ms = engine.now_ms      # until now it was the socket that streams waited for
        if not gather_frames(engine, session):
            note_end(session, HTTP2_OUT_OF_MEMORY)
            return False
        size = <uint32_t>(session.batch - engine.write_buffer)
        if size == 0:
            return True
        n = connection.transport.send(engine, connection, engine.write_buffer, size)
        if n == IO_AGAIN:
            n = 0
        if n < 0:
            return False
        count_sent(engine, session, <uint64_t>n)
        if <uint32_t>n < size and not append_bytes(&engine.buffers, &session.held, engine.write_buffer + n, size - <uint32_t>n):
            note_end(session, HTTP2_OUT_OF_MEMORY)
            return False
    list_ready(engine, connection)
    return True


cdef inline void count_received(Engine* engine, const Connection* connection, uint64_t size) noexcept nogil:
    if connection.kind == KIND_CLIENT:
        engine.counters.client_bytes_in += size
        count_client_in(engine, connection, size)
    else:
        engine.counters.backend_bytes_in += size
        connection.backend.meter.bytes_in += size


cdef inline void count_sent(Engine* engine, Http2Session* session, uint64_t size) noexcept nogil:
    # What its streams' answers are is counted for routes and pools where they take it.
    session.written_ms = engine.now_ms
    if session.connection.kind == KIND_CLIENT:
        engine.counters.client_bytes_out += size
        engine.meters[session.connection.listener.meter].bytes_out += size
    else:
        engine.counters.backend_bytes_out += size
        session.connection.backend.meter.bytes_out += size
