from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Attempt, Codec, Engine, Exchange, Http2Session, Http2Stream

cdef enum:
    # Beside Http2StreamFlags
    H2_JOINED = 2048                # waits for a session that another attempt has opened
    H2_MOVES = 4096                 # and goes to another one: this one's backend allows fewer streams

cdef const Codec* http2_backend_codec() noexcept nogil
cdef uint32_t open_backend_stream(Engine* engine, Exchange* exchange, Attempt* attempt) noexcept nogil

# What a stream's own module (http2_backend_stream.pyx) asks of its session.
cdef bint may_begin(const Http2Session* session, const Http2Stream* stream, const Exchange* exchange) noexcept nogil
cdef void move_attempt(Engine* engine, Attempt* attempt) noexcept nogil
cdef void leave_stream(Engine* engine, Http2Stream* stream) noexcept nogil
