from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Codec, ImageHeader

cdef bint check_session_route(const char* image, const ImageHeader* header, uint32_t index) noexcept nogil
cdef const Codec* session_codec() noexcept nogil
cdef const Codec* session_backend_codec() noexcept nogil
