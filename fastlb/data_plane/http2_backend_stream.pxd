from fastlb.data_plane.types cimport Codec, Transport

cdef const Codec* http2_backend_stream_codec() noexcept nogil
cdef const Transport* http2_backend_stream_transport() noexcept nogil
