from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, ImageHeader, ImageHeaderEdits
from fastlb.data_plane.writer cimport Writer

cdef bint check_operations(const char* image, const ImageHeader* header) noexcept nogil
cdef bint check_edits(const ImageHeader* header, const ImageHeaderEdits* edits) noexcept nogil
cdef void copy_fields(Writer* out, const Head* head, uint64_t except_ids) noexcept nogil
cdef bint is_edited(const char* name, uint32_t size, const Exchange* exchange, const ImageHeaderEdits* edits) noexcept nogil
cdef void copy_fields_but_edited(Writer* out, const Head* head, uint64_t except_ids, const Exchange* exchange,
                                 const ImageHeaderEdits* edits) noexcept nogil
cdef void apply_edits(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageHeaderEdits* edits,
                      Writer* out) noexcept nogil
