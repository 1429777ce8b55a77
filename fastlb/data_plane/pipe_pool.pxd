from libc.stdint cimport int32_t

from fastlb.data_plane.types cimport PipePool

cdef int pipe_pool_open(PipePool* pool, int32_t capacity) noexcept nogil
cdef void pipe_pool_close(PipePool* pool) noexcept nogil
cdef int32_t take_pipe(PipePool* pool) noexcept nogil
cdef void return_pipe(PipePool* pool, int32_t pipe) noexcept nogil
