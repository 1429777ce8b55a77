from fastlb.data_plane.types cimport ImageHeader

cdef bint check_sessions(const char* image, const ImageHeader* header) noexcept nogil
