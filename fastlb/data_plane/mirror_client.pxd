from fastlb.data_plane.types cimport Codec

cdef const Codec* mirror_codec() noexcept nogil
