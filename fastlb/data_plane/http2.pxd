from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastlb.data_plane.nghttp2 cimport (nghttp2_frame, nghttp2_frame_hd, nghttp2_session, nghttp2_session_callbacks, nghttp2_settings_entry)
from fastlb.data_plane.types cimport HTTP2_NOT_ENDED, Allowance, Connection, Engine, Http2Session, Http2Stream

cdef enum:
    # Frames that move nothing: as many at once, and then one each millisecond. What we send allows more, kept for as long as the other side takes to
    # read it: Go opens a stream's window and the connection's for every 4 KiB.
    FRAME_BURST = 2000
    HEADER_FLOOD_FACTOR = 8         # a header list beyond its limit is refused for itself, up to so many times the limit
    FIELD_OVERHEAD = 32             # RFC 9113 section 6.5.2
    LATE_MS = 100

cdef enum:                          # results of submit_request
    SUBMITTED = 0
    TOO_MANY_FIELDS = 1
    NO_NUMBER = 2

ctypedef struct SessionCalls:       # what nghttp2 calls, beside what both sides share
    int (*begin_frame)(nghttp2_session*, const nghttp2_frame_hd*, void*) noexcept nogil
    int (*begin_headers)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil
    int (*header)(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t, uint8_t, void*) noexcept nogil
    int (*frame_recv)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil
    int (*data)(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*) noexcept nogil
    int (*stream_close)(nghttp2_session*, int32_t, uint32_t, void*) noexcept nogil
    int (*frame_send)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil

# A session, whichever side it is for.
cdef nghttp2_session_callbacks* make_callbacks(const SessionCalls* calls) except NULL  # with the GIL: only when a module is imported
cdef Http2Session* make_session(Engine* engine, Connection* connection, const nghttp2_session_callbacks* callbacks) noexcept nogil
cdef bint submit_preface(Http2Session* session, const nghttp2_settings_entry* entries, size_t n, int32_t window_bytes) noexcept nogil
cdef void free_session(Http2Session* session) noexcept nogil
cdef void free_handle(void* handle) noexcept nogil
cdef bint read_frames(Engine* engine, Connection* connection, bint* lost) noexcept nogil
cdef bint take_frames(Engine* engine, Http2Session* session, const char* data, uint32_t size) noexcept nogil
cdef bint write_frames(Engine* engine, Connection* connection) noexcept nogil
cdef bint wants_write(const Http2Session* session) noexcept nogil
cdef bint wants_read(const Http2Session* session) noexcept nogil
cdef void list_session(Engine* engine, Http2Session* session) noexcept nogil
cdef void end_session(Http2Session* session) noexcept nogil
cdef void end_idle(Http2Session* session) noexcept nogil
cdef void end_broken(Http2Session* session, uint32_t code) noexcept nogil
cdef void send_ping(Http2Session* session) noexcept nogil
cdef void announce_leave(Http2Session* session) noexcept nogil
cdef void announce_last(Http2Session* session) noexcept nogil
cdef void count_frame(Http2Session* session, const nghttp2_frame_hd* head) noexcept nogil
cdef uint32_t remote_streams(const Http2Session* session) noexcept nogil
cdef bint remote_allows_connect(const Http2Session* session) noexcept nogil

# A stream of it.
cdef Http2Stream* stream_of(nghttp2_session* handle, int32_t id) noexcept nogil
cdef Http2Stream* add_stream(Http2Session* session, Connection* connection) noexcept nogil
cdef void drop_stream(Http2Stream* stream) noexcept nogil
cdef bint begin_stream(Http2Stream* stream) noexcept nogil
cdef void refuse_stream(nghttp2_session* handle, int32_t id) noexcept nogil
cdef void reset_stream(Http2Stream* stream, uint32_t code) noexcept nogil
cdef bint submit_head(Engine* engine, Http2Stream* stream, const char* text, uint32_t size, bint final, bint has_body) noexcept nogil
cdef int submit_request(Engine* engine, Http2Stream* stream, const char* text, uint32_t size, bint has_body, bint is_tls, bint wants_trailers) noexcept nogil
cdef void consume(Engine* engine, Http2Stream* stream, uint32_t size) noexcept nogil
cdef void drop_bytes(nghttp2_session* handle, int32_t id, size_t size) noexcept nogil
cdef void wake_output(Engine* engine, Http2Stream* stream) noexcept nogil
cdef uint32_t take_input(Engine* engine, Http2Stream* stream, char* data, uint32_t size) noexcept nogil
cdef ssize_t put_output(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil
cdef ssize_t put_parts(Engine* engine, Connection* connection, const char** parts, const size_t* sizes, int n_parts) noexcept nogil


cdef inline uint32_t output_held(const Http2Stream* stream) noexcept nogil:
    return 0 if stream.output == NULL else stream.output.end - stream.output.start


cdef inline bint spend(Allowance* allowance, uint64_t now_ms, int64_t most, int64_t amount) noexcept nogil:
    # Takes `amount` off; one comes back each millisecond, up to `most`. False: used up.
    if allowance.left < most:
        allowance.left += <int64_t>(now_ms - allowance.filled_ms)
        if allowance.left > most:
            allowance.left = most
    allowance.filled_ms = now_ms
    allowance.left -= amount
    return allowance.left >= 0


cdef inline void show_data(Http2Session* session, const nghttp2_frame_hd* head) noexcept nogil:
    # nghttp2 has not passed over this DATA frame.
    session.unseen_bytes -= <int64_t>head.length
    session.unseen_frames -= head.length == 0


cdef inline void allow_late_data(Http2Session* session) noexcept nogil:
    # A reset of ours has gone: as much as its stream's window had may be under way.
    session.late_bytes += session.window_bytes


cdef inline void note_end(Http2Session* session, uint8_t end) noexcept nogil:
    # The session is to be ended, as soon as nghttp2 has returned.
    if session.end == HTTP2_NOT_ENDED:
        session.end = end
