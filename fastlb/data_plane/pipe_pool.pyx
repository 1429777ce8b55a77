"""Pipes for splice, lent only while bytes move.

The kernel gives an unprivileged user 256 pipes of 256 KiB over all processes, then small ones or none: the pool is capped
(192 by default, shared by the workers), checks the size of each and stops making more at the first small one. Without a free
pipe a relay uses the buffer path. State: Engine.pipes.
"""
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.system cimport close, memset
from fastlb.data_plane.transport cimport open_pipe
from fastlb.data_plane.types cimport NO_PIPE, Pipe, PipePool


cdef int pipe_pool_open(PipePool* pool, int32_t capacity) noexcept nogil:
    memset(pool, 0, sizeof(PipePool))
    pool.capacity = capacity
    pool.pipes = <Pipe*>calloc(<size_t>capacity + 1, sizeof(Pipe))
    pool.idle = <int32_t*>calloc(<size_t>capacity + 1, sizeof(int32_t))
    return 0 if pool.pipes != NULL and pool.idle != NULL else -1


cdef void pipe_pool_close(PipePool* pool) noexcept nogil:
    cdef int32_t i
    for i in range(pool.n_made):
        if pool.pipes[i].read_fd >= 0:
            close(pool.pipes[i].read_fd)
            close(pool.pipes[i].write_fd)
    free(pool.pipes)
    pool.pipes = NULL
    free(pool.idle)
    pool.idle = NULL
    pool.n_made = pool.n_idle = 0


cdef int32_t take_pipe(PipePool* pool) noexcept nogil:
    # Index of an empty pipe, or NO_PIPE: use the buffer path.
    cdef:
        Pipe* pipe
        int size
    if pool.n_idle:
        pool.n_idle -= 1
        pool.taken += 1
        return pool.idle[pool.n_idle]
    if pool.n_made == pool.capacity or pool.exhausted:
        return NO_PIPE
    pipe = &pool.pipes[pool.n_made]
    size = open_pipe(&pipe.read_fd, &pipe.write_fd)
    if size <= 0:
        pool.exhausted = size == 0              # out of descriptors passes; the kernel's quota does not
        return NO_PIPE
    pipe.fill = 0
    pool.n_made += 1
    pool.taken += 1
    return pool.n_made - 1


cdef void return_pipe(PipePool* pool, int32_t pipe) noexcept nogil:
    # A pipe with bytes left in it (its relay failed) is replaced: those bytes must never reach another connection.
    cdef Pipe* entry = &pool.pipes[pipe]
    pool.returned += 1
    if entry.fill:
        close(entry.read_fd)
        close(entry.write_fd)
        entry.fill = 0
        if open_pipe(&entry.read_fd, &entry.write_fd) <= 0:
            entry.read_fd = entry.write_fd = -1
            return                              # this index is never lent again
    pool.idle[pool.n_idle] = pipe
    pool.n_idle += 1
