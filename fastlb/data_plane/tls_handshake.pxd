from fastlb.data_plane.types cimport Codec

cdef const Codec* tls_codec() noexcept nogil
