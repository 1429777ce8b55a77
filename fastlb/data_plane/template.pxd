from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, ImageHeader, ImageSection
from fastlb.data_plane.writer cimport Writer

cdef bint check_segments(const char* image, const ImageHeader* header) noexcept nogil
cdef bint check_template(const ImageHeader* header, const ImageSection* template) noexcept nogil
cdef bint keep_match(Engine* engine, Exchange* exchange) noexcept nogil
cdef void put_template(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageSection* template,
                       Writer* out) noexcept nogil
cdef void put_encoded(Writer* out, const char* data, uint32_t size, uint32_t encoding) noexcept nogil
