from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport ImageHeader, ImageName, ImageSection

cdef uint32_t find_name(const char* texts, const ImageName* names, uint32_t n_names, const char* wanted, uint32_t size) noexcept nogil
cdef uint32_t find_host(const char* texts, const ImageName* names, uint32_t n_names, const char* host, uint32_t size) noexcept nogil
cdef bint check_names(const char* image, const ImageHeader* header, const ImageSection* names, uint32_t n_targets) noexcept nogil
