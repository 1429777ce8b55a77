from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Codec, Engine, Http2Session, Http2Stream

cdef const Codec* http2_client_codec() noexcept nogil

# What a stream's own module (http2_stream.pyx) asks of its session.
cdef bint submit_head(Engine* engine, Http2Stream* stream, const char* text, uint32_t size, bint final, bint has_body) noexcept nogil
cdef void consume(Engine* engine, Http2Stream* stream, uint32_t size) noexcept nogil
cdef void wake_output(Engine* engine, Http2Stream* stream) noexcept nogil
cdef void leave_stream(Engine* engine, Http2Stream* stream, bint reset) noexcept nogil


cdef inline uint32_t output_held(const Http2Stream* stream) noexcept nogil:
    return 0 if stream.output == NULL else stream.output.end - stream.output.start
