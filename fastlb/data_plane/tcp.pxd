from fastlb.data_plane.types cimport Codec

cdef const Codec* session_codec() noexcept nogil
cdef const Codec* session_backend_codec() noexcept nogil
