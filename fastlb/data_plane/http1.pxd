from fastlb.data_plane.types cimport Codec

cdef const Codec* http1_client_codec() noexcept nogil
cdef const Codec* http1_backend_codec() noexcept nogil
