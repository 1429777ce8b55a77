from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Buffer, BufferPool

cdef int buffer_pool_open(BufferPool* pool) noexcept nogil
cdef void buffer_pool_close(BufferPool* pool) noexcept nogil
cdef Buffer* take_buffer(BufferPool* pool, uint32_t room) noexcept nogil
cdef void return_buffer(BufferPool* pool, Buffer* buffer) noexcept nogil
cdef bint append_bytes(BufferPool* pool, Buffer** buffer, const char* data, uint32_t size) noexcept nogil
