from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport NO_INDEX, ImageHeader, TlsName

cdef bint check_tls(const char* image, const ImageHeader* header) noexcept nogil
cdef int compare_names(const char* a, uint32_t a_size, const char* b, uint32_t b_size) noexcept nogil
cdef uint32_t find_name(const char* texts, const TlsName* names, uint32_t n_names, const char* wanted, uint32_t size) noexcept nogil
cdef uint32_t find_host(const char* texts, const TlsName* names, uint32_t n_names, const char* host, uint32_t size) noexcept nogil
