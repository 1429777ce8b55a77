from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport load_ordered
from fastlb.data_plane.types cimport Backend, Column, Engine, Exchange, Pool, Queue, SharedTable

cdef enum:
    QUEUE_MARK = 124                # "|": the first byte of a queue's identity; those of backends begin with a pool's name
    ORDER_SHIFT = 48                # queue_order is priority << 48 | since when in milliseconds: the lowest is first

cdef uint32_t enter_queue(Engine* engine, Exchange* exchange) noexcept nogil
cdef void leave_queue(Engine* engine, Exchange* exchange) noexcept nogil
cdef bint must_wait(Engine* engine, const Exchange* exchange) noexcept nogil
cdef bint is_full(const Pool* pool) noexcept nogil
cdef bint give_way(Engine* engine, const Exchange* exchange) noexcept nogil
cdef void tell_waiting(Engine* engine, const Backend* row) noexcept nogil
cdef void look_again(Engine* engine) noexcept nogil
cdef bint set_sibling(Engine* engine, uint32_t slot, int event_fd) noexcept nogil
cdef void forget_siblings(Engine* engine) noexcept nogil
cdef void wake_siblings(Engine* engine) noexcept nogil
cdef void refresh_caps(Engine* engine) noexcept nogil
cdef void list_waiting(SharedTable* table, uint64_t* slots) noexcept nogil


cdef inline uint64_t time_queued(const Engine* engine, const Exchange* exchange) noexcept nogil:
    # How long one that waits (X_QUEUED) has waited, in milliseconds.
    return engine.now_ms - (exchange.queue_order & (<uint64_t>1 << ORDER_SHIFT) - 1)


cdef inline uint64_t* first_order(Column* column) noexcept nogil:
    # Of a queue's column: queue_order of this worker's first. A queue has no failures, so it stands in their place.
    return &column.failures


cdef inline void note_release(Engine* engine, const Backend* backend) noexcept nogil:
    # After each release of a claim: tells who waits for one. The second half of what queue.pyx argues.
    cdef const Backend* row = backend.queue
    if row != NULL and load_ordered(&row.shared.waiting[0]) | load_ordered(&row.shared.waiting[1]):
        tell_waiting(engine, row)
