from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head
from fastlb.data_plane.writer cimport Writer

cdef void make_request_id(Engine* engine, char* id) noexcept nogil
cdef bint is_trusted(Engine* engine, Exchange* exchange) noexcept nogil
cdef uint32_t put_received(const Head* head, uint32_t id, Writer* out, bint only_first) noexcept nogil
