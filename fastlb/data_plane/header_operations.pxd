from libc.stdint cimport uint64_t

from fastlb.data_plane.types cimport Engine, Exchange, Head
from fastlb.data_plane.writer cimport Writer

cdef void copy_fields(Writer* out, const Head* head, uint64_t except_ids) noexcept nogil
cdef void apply_operations(Engine* engine, Exchange* exchange, const Head* head, Writer* out) noexcept nogil
cdef void make_request_id(Engine* engine, char* id) noexcept nogil
cdef bint is_trusted(Engine* engine, Exchange* exchange) noexcept nogil
