from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, ImageHeader, ImageSection, ImageSegment
from fastlb.data_plane.writer cimport Writer

cdef bint check_segments(const char* image, const ImageHeader* header) noexcept nogil
cdef bint check_template(const ImageHeader* header, const ImageSection* template) noexcept nogil
cdef bint keep_match(Engine* engine, Exchange* exchange) noexcept nogil
cdef void put_segments(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageSegment* segment,
                       uint32_t count, Writer* out) noexcept nogil
cdef void put_encoded(Writer* out, const char* data, uint32_t size, uint32_t encoding) noexcept nogil


cdef inline const ImageSegment* segments_of(const Exchange* exchange) noexcept nogil:
    return <const ImageSegment*>(exchange.snapshot.image + exchange.snapshot.header.segments.offset)


cdef inline void put_template(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageSection* template,
                              Writer* out) noexcept nogil:
    # Writes a checked template of the exchange's snapshot. `response`: NULL where there is none. `request`: NULL where it is known that
    # the template has no value of it.
    put_segments(engine, exchange, request, response, segments_of(exchange) + template.offset, template.count, out)
