from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Group, ImagePool, Pool

cdef bint check_pool(const char* image, size_t size, const ImagePool* pool) noexcept nogil
cdef bint load_pool(Engine* engine, const char* image, Pool* pool) noexcept nogil
cdef bint hold_pool_rows(Engine* engine, const char* image, Pool* pool, int* error) noexcept nogil
cdef void drop_pool_rows(Engine* engine, Pool* pool) noexcept nogil
cdef void drop_group(Group* group) noexcept nogil
cdef void drop_pool(Pool* pool) noexcept nogil
