from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, ImageHeader, ImageRoute

cdef enum:
    OWN_ANSWER = 0xFFFFFFFF         # run_program: no backend is asked

cdef bint check_route(const char* image, const ImageHeader* header, const ImageRoute* route) noexcept nogil
cdef void enter_pool(Engine* engine, Exchange* exchange, uint32_t pool, uint32_t head_bytes) noexcept nogil
cdef uint32_t run_features(Engine* engine, Exchange* exchange, Head* head) noexcept nogil
cdef uint32_t run_program(Engine* engine, Exchange* exchange, Head* head) noexcept nogil
