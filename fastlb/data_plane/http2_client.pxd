from fastlb.data_plane.types cimport Codec, Engine, Http2Stream

cdef const Codec* http2_client_codec() noexcept nogil

# What a stream's own module (http2_stream.pyx) asks of its session.
cdef void leave_stream(Engine* engine, Http2Stream* stream, bint reset) noexcept nogil
