from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, ImageHeader, ImageRoute

cdef bint check_route(const ImageHeader* header, const ImageRoute* route) noexcept nogil
cdef uint32_t run_program(Engine* engine, Exchange* exchange, Head* head) noexcept nogil
cdef void enter_pool(Engine* engine, Exchange* exchange, uint32_t pool) noexcept nogil
