from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Attempt, Codec, Engine, Exchange, Http2Session, Http2Stream

cdef enum:
    H2_JOINED = 2048                # beside Http2StreamFlags: waits for a session that another attempt has opened

cdef const Codec* http2_backend_codec() noexcept nogil
cdef uint32_t open_backend_stream(Engine* engine, Exchange* exchange, Attempt* attempt) noexcept nogil

# What a stream's own module (http2_backend_stream.pyx) asks of its session.
cdef bint stands(const Http2Session* session) noexcept nogil
cdef void leave_stream(Engine* engine, Http2Stream* stream) noexcept nogil
