"""Blocks of 4, 16, 64 and 256 KiB from per-worker free lists.

State: the free lists in Engine.buffers. Only the pump's thread touches them. A block has one owner at a time, named in the
owner's struct; `taken` and `returned` must be equal whenever no exchange, relay or connection holds one.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from fastlb.data_plane.system cimport memcpy, memmove
from fastlb.data_plane.types cimport BUFFER_CLASSES, Buffer, BufferPool

cdef uint32_t CLASS_BYTES[BUFFER_CLASSES]
CLASS_BYTES[:] = [4096, 16384, 65536, 262144]
# Blocks kept per class once free (2, 4, 4 and 4 MiB); beyond, they go back to malloc, so that a burst does not hold memory for good.
cdef uint32_t CLASS_KEPT[BUFFER_CLASSES]
CLASS_KEPT[:] = [512, 256, 64, 16]


cdef int buffer_pool_open(BufferPool* pool) noexcept nogil:
    cdef uint32_t i
    for i in range(BUFFER_CLASSES):
        pool.free[i] = NULL
        pool.n_free[i] = 0
    pool.taken = pool.returned = 0
    return 0


cdef void buffer_pool_close(BufferPool* pool) noexcept nogil:
    cdef:
        uint32_t i
        Buffer* buffer
    for i in range(BUFFER_CLASSES):
        while pool.free[i] != NULL:
            buffer = pool.free[i]
            pool.free[i] = buffer.next
            free(buffer)
        pool.n_free[i] = 0


cdef Buffer* take_buffer(BufferPool* pool, uint32_t room) noexcept nogil:
    # An empty block with at least `room` bytes, owned by the caller; NULL when memory is out or `room` is over 256 KiB.
    cdef:
        uint32_t size_class = 0
        Buffer* buffer
    while size_class < BUFFER_CLASSES and room > CLASS_BYTES[size_class] - sizeof(Buffer):
        size_class += 1
    if size_class == BUFFER_CLASSES:
        return NULL
    buffer = pool.free[size_class]
    if buffer != NULL:
        pool.free[size_class] = buffer.next
        pool.n_free[size_class] -= 1
    else:
        buffer = <Buffer*>malloc(CLASS_BYTES[size_class])
        if buffer == NULL:
            return NULL
        buffer.data = <char*>buffer + sizeof(Buffer)
        buffer.capacity = CLASS_BYTES[size_class] - <uint32_t>sizeof(Buffer)
        buffer.size_class = <unsigned char>size_class
    buffer.next = NULL
    buffer.start = buffer.end = 0
    pool.taken += 1
    return buffer


cdef void return_buffer(BufferPool* pool, Buffer* buffer) noexcept nogil:
    # Takes ownership back. NULL is allowed, so that owners need not test.
    cdef uint32_t size_class
    if buffer == NULL:
        return
    pool.returned += 1
    size_class = buffer.size_class
    if pool.n_free[size_class] >= CLASS_KEPT[size_class]:
        free(buffer)
        return
    buffer.next = pool.free[size_class]
    pool.free[size_class] = buffer
    pool.n_free[size_class] += 1


cdef bint append_bytes(BufferPool* pool, Buffer** buffer, const char* data, uint32_t size) noexcept nogil:
    # Appends to *buffer, taking a block when it is NULL and a larger one when it is full. False: out of memory, or over
    # 256 KiB; nothing was appended and *buffer is as before.
    cdef:
        Buffer* old = buffer[0]
        Buffer* grown
        uint32_t held
    if old != NULL and old.capacity - old.end >= size:
        memcpy(old.data + old.end, data, size)
        old.end += size
        return True
    held = old.end - old.start if old != NULL else 0
    if old != NULL and old.capacity - held >= size:
        memmove(old.data, old.data + old.start, held)
        old.start = 0
        old.end = held
        memcpy(old.data + held, data, size)
        old.end += size
        return True
    grown = take_buffer(pool, held + size)
    if grown == NULL:
        return False
    if held:
        memcpy(grown.data, old.data + old.start, held)
    memcpy(grown.data + held, data, size)
    grown.end = held + size
    return_buffer(pool, old)
    buffer[0] = grown
    return True
