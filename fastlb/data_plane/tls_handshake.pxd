from fastlb.data_plane.types cimport Codec

cdef const Codec* tls_codec() noexcept nogil
cdef const Codec* tls_backend_codec() noexcept nogil
