"""Queues of full pools: exchanges that wait until a backend of their pool is below its cap again, whichever worker brings that about.

State: Queue, one per pool and worker, which outlives snapshots as backends' rows do; Engine.queues, those in which somebody waits; and for
each pool that has a queue a row of shared memory:

- `in_flight`: how many wait in all workers. A place is claimed and released as a backend's are, so `max` is the node's, holds at every
  instant, and settlement takes back the places of a dead worker.
- `waiting`: a bit for each worker in which somebody waits. A worker changes its own; settlement clears a dead one's.
- in each worker's column, the order of its first one: priority, then since when.

Who waits holds a place here and its snapshot, and neither a backend nor a claim on one. Nothing of its request is read meanwhile. Nothing
here starts an exchange: exchange.pyx does (serve_queues), at the end of a batch, when Engine.queue_work says that there is reason to look.

**No wake-up is lost.** Who begins to wait sets its worker's bit and only then looks for a backend once more; who releases takes one off
in_flight and only then reads the bits. All four are in one order that every processor sees (the additions, the bits and their reading are
sequentially consistent, a full fence stands before the second look). If the reader missed the bit, its release stands before the bit in
that order, and the second look saw it. If it saw the bit, it tells: itself, by QUEUE_LOOK; or the sibling whose first comes first, by its
eventfd. One is enough: whoever is told and cannot use all that is free passes the rest on (end_waiting when nobody waits any more,
give_way when a sibling has waited longer). tests/property/queue_model.py is this step by step: change both or neither.

**The longest wait is first, over all workers.** A worker whose first one is younger than a sibling's leaves a free backend to that sibling
and wakes it, and so does whoever arrives while somebody waits elsewhere. Differences below FAIR_MS are not worth a wake-up. A sibling that
does not move, to be seen by its heartbeat, is not waited for. Priorities count before time, in all workers.

**What no wake-up tells** (a backend that is up again, a sibling that was told and died) is found by looking anyway every LOOK_MS while
somebody waits. Where every look has left a free backend to a sibling for that long, the next one does not: nothing stays idle longer than
two of them.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.failure cimport FAILURE_QUEUE_FULL
from fastlb.data_plane.retry cimport has_candidate
from fastlb.data_plane.select.candidates cimport find_candidate
from fastlb.data_plane.shared_table cimport claim_row, column_at, count_rows, details_at, release_row, row_at, worker_at
from fastlb.data_plane.system cimport (F_DUPFD_CLOEXEC, close, fcntl, full_fence, keep_bits, load_long, load_ordered, lowest_bit, set_bits,
                                       store_long, write)
from fastlb.data_plane.timer_wheel cimport set_timer
from fastlb.data_plane.types cimport (IO_HALF_CLOSED, MAX_WORKERS, NO_BACKEND, QUEUE_GAVE_WAY, QUEUE_LOOK, QUEUE_LOOK_PAST, QUEUE_PRIORITIES, QUEUE_WAKE,
                                      ROW_FREE, WAIT_QUEUE, WAIT_UNSET, X_QUEUED, Backend, Engine, Exchange, Pool, Queue, SharedRow,
                                      SharedTable, WaitList)

cdef enum:
    LOOK_MS = 16                    # one tick of the timer wheel
    FAIR_MS = 8                     # below the resolution that batches and ticks leave
    ALIVE_MS = 1_000                # a worker in which somebody waits looks every LOOK_MS, and each look is a heartbeat; machines stall, too


# ---------------------------------------------------------------------------------------------------------- siblings
cdef int32_t find_first(Engine* engine, const Backend* row, uint64_t before, uint64_t alive_since) noexcept nogil:
    # The slot of the sibling whose first one comes first, and before the order `before`; -1: none. Only those seen since `alive_since`.
    cdef:
        uint32_t own = engine.backends.slot, word, slot
        uint64_t bits, order
        int32_t found = -1
    for word in range(2):
        bits = load_long(&row.shared.waiting[word])
        if own >> 6 == word:
            bits &= ~(<uint64_t>1 << (own & 63))
        while bits:
            slot = word * 64 + <uint32_t>lowest_bit(bits)
            bits &= bits - 1
            order = load_long(first_order(column_at(engine.shared, row.number, slot)))
            if order < before and worker_at(engine.shared, slot).heartbeat_ms >= alive_since:
                before = order
                found = <int32_t>slot
    return found


cdef inline uint64_t seen_since(const Engine* engine) noexcept nogil:
    return engine.now_ms - ALIVE_MS if engine.now_ms > ALIVE_MS else 0


cdef inline int32_t find_older(Engine* engine, const Backend* row, uint64_t order) noexcept nogil:
    # The slot of a living sibling in which somebody comes before this order, by more than FAIR_MS; -1: none.
    return find_first(engine, row, order - FAIR_MS, seen_since(engine))


cdef void wake(Engine* engine, uint32_t slot) noexcept nogil:
    # When the batch ends, once however much has come free in it.
    engine.wakes[slot >> 6] |= <uint64_t>1 << (slot & 63)
    engine.queue_work |= QUEUE_WAKE


cdef void wake_first(Engine* engine, const Backend* row) noexcept nogil:
    cdef int32_t slot = find_first(engine, row, <uint64_t>-1, seen_since(engine))
    if slot < 0:
        slot = find_first(engine, row, <uint64_t>-1, 0)
    if slot >= 0:
        wake(engine, <uint32_t>slot)


cdef void tell_waiting(Engine* engine, const Backend* row) noexcept nogil:
    # A backend of this queue's pool has come free, and somebody waits.
    if row.waiting.count != 0:
        engine.queue_work |= QUEUE_LOOK
    else:
        wake_first(engine, row)


cdef bint set_sibling(Engine* engine, uint32_t slot, int event_fd) noexcept nogil:
    # Keeps a copy of what wakes the worker in this slot (below MAX_WORKERS). False: no descriptor was to be had, errno says why.
    cdef int copy = fcntl(event_fd, F_DUPFD_CLOEXEC, 3)
    if copy < 0:
        return False
    if engine.siblings[slot] >= 0:
        close(engine.siblings[slot])
    engine.siblings[slot] = copy
    return True


cdef void forget_siblings(Engine* engine) noexcept nogil:
    cdef uint32_t slot
    for slot in range(MAX_WORKERS):
        if engine.siblings[slot] >= 0:
            close(engine.siblings[slot])
        engine.siblings[slot] = -1


cdef void wake_siblings(Engine* engine) noexcept nogil:
    # At the end of a batch. Who is not known is found by its own look.
    cdef:
        uint64_t bits, one = 1
        uint32_t word, slot
    engine.queue_work &= ~<uint32_t>QUEUE_WAKE
    for word in range(2):
        bits = engine.wakes[word]
        engine.wakes[word] = 0
        while bits:
            slot = word * 64 + <uint32_t>lowest_bit(bits)
            bits &= bits - 1
            if engine.siblings[slot] >= 0:
                write(engine.siblings[slot], &one, sizeof(one))


# ---------------------------------------------------------------------------------------------------------- waiting
cdef inline uint64_t order_of(const Engine* engine, const Exchange* exchange) noexcept nogil:
    return <uint64_t>exchange.route.priority << ORDER_SHIFT | engine.now_ms


cdef bint must_wait(Engine* engine, const Exchange* exchange) noexcept nogil:
    # Whether somebody waits already whom an exchange that comes now, to a pool with a queue, would overtake.
    cdef const Queue* queue = exchange.pool.queue
    if queue.count != 0:
        return True                             # in what order they are served is seen when the batch ends
    if not load_long(&queue.row.shared.waiting[0]) | load_long(&queue.row.shared.waiting[1]):
        return False
    return find_older(engine, queue.row, order_of(engine, exchange)) >= 0


cdef bint is_full(const Pool* pool) noexcept nogil:
    # Whether no backend would be picked now, for anybody.
    cdef uint32_t i
    for i in range(pool.n_groups):
        if find_candidate(&pool.groups[i], 0, NULL, 0) != NO_BACKEND:
            return False
    return True


cdef bint give_way(Engine* engine, const Exchange* exchange) noexcept nogil:
    # Whether a backend that is free now is left to a sibling in which somebody comes before this waiting exchange; the sibling is woken.
    cdef int32_t slot
    if engine.queue_work & QUEUE_LOOK_PAST:
        return False
    slot = find_older(engine, exchange.pool.queue.row, exchange.queue_order)
    if slot < 0 or not has_candidate(exchange):
        return False
    wake(engine, <uint32_t>slot)
    engine.queue_work |= QUEUE_GAVE_WAY
    if engine.gave_way_ms == 0:
        engine.gave_way_ms = engine.now_ms
    return True


cdef void show_first(Queue* queue) noexcept nogil:
    # The order of the first one, to siblings; somebody waits.
    cdef uint32_t i
    for i in range(QUEUE_PRIORITIES):
        if queue.lists[i].first != NULL:
            store_long(first_order(queue.row.column), queue.lists[i].first.queue_order)
            return


cdef void look_again(Engine* engine) noexcept nogil:
    # LOOK_MS have passed since the last time, and somebody may wait.
    if engine.queues != NULL:
        engine.queue_work |= QUEUE_LOOK
        if engine.gave_way_ms != 0 and engine.now_ms - engine.gave_way_ms >= LOOK_MS:
            engine.queue_work |= QUEUE_LOOK_PAST
        set_timer(&engine.timers, &engine.queue_timer, engine.now_ms + LOOK_MS)


cdef void begin_waiting(Engine* engine, Queue* queue) noexcept nogil:
    # The first one has entered.
    cdef uint32_t slot = engine.backends.slot
    queue.previous = NULL
    queue.next = engine.queues
    if queue.next != NULL:
        queue.next.previous = queue
    engine.queues = queue
    set_bits(&queue.row.shared.waiting[slot >> 6], <uint64_t>1 << (slot & 63))
    full_fence()                                # the next look for a backend comes after it: see above
    if engine.queue_timer.link == NULL:
        set_timer(&engine.timers, &engine.queue_timer, engine.now_ms + LOOK_MS)


cdef void end_waiting(Engine* engine, Queue* queue, const Exchange* exchange) noexcept nogil:
    # The last one, this exchange, has left. What is still free is a sibling's.
    cdef:
        uint32_t slot = engine.backends.slot
        SharedRow* row = queue.row.shared
    if queue.previous != NULL:
        queue.previous.next = queue.next
    else:
        engine.queues = queue.next
    if queue.next != NULL:
        queue.next.previous = queue.previous
    keep_bits(&row.waiting[slot >> 6], ~(<uint64_t>1 << (slot & 63)))
    if load_ordered(&row.waiting[0]) | load_ordered(&row.waiting[1]):
        full_fence()                            # whoever releases and still saw our bit tells nobody else: that release is seen here
        if has_candidate(exchange):
            wake_first(engine, queue.row)


cdef uint32_t enter_queue(Engine* engine, Exchange* exchange) noexcept nogil:
    # Behind all of its priority. 0, or FAILURE_QUEUE_FULL with nothing changed.
    cdef:
        Queue* queue = exchange.pool.queue
        Backend* row = queue.row
        WaitList* list = &queue.lists[exchange.route.priority]
    if not claim_row(engine.shared, engine.worker, row.shared, row.column, row.number, exchange.pool.image.queue_max):
        return FAILURE_QUEUE_FULL
    exchange.flags |= X_QUEUED
    exchange.client.wait = WAIT_QUEUE
    exchange.queue_order = order_of(engine, exchange)
    exchange.half_closed = exchange.client.io & IO_HALF_CLOSED != 0
    exchange.next = NULL
    exchange.previous = list.last
    if list.last != NULL:
        list.last.next = exchange
    else:
        list.first = exchange
    list.last = exchange
    queue.count += 1
    engine.counters.waits_opened += 1
    if exchange.previous == NULL:
        show_first(queue)
    if queue.count == 1:
        begin_waiting(engine, queue)
    engine.queue_work |= QUEUE_LOOK
    return 0


cdef void leave_queue(Engine* engine, Exchange* exchange) noexcept nogil:
    # Out of the queue and its place given back, whether its turn has come or not. The exchange still has its pool.
    cdef:
        Queue* queue = exchange.pool.queue
        Backend* row = queue.row
        WaitList* list = &queue.lists[exchange.route.priority]
    if exchange.previous != NULL:
        exchange.previous.next = exchange.next
    else:
        list.first = exchange.next
    if exchange.next != NULL:
        exchange.next.previous = exchange.previous
    else:
        list.last = exchange.previous
    exchange.next = exchange.previous = NULL
    if exchange.log != NULL:
        exchange.log.queued_ms += <uint32_t>time_queued(engine, exchange)
    exchange.flags &= ~<uint32_t>X_QUEUED
    exchange.client.wait = WAIT_UNSET
    queue.count -= 1
    engine.counters.waits_closed += 1
    release_row(engine.shared, engine.worker, row.shared, row.column, row.number)
    if queue.count == 0:
        end_waiting(engine, queue, exchange)
    else:
        show_first(queue)


# ---------------------------------------------------------------------------------------------------------- rare
cdef void refresh_caps(Engine* engine) noexcept nogil:
    # After a commit: a backend has one cap, that of the newest snapshot. Who waits with an older one would otherwise never see room where
    # the cap was raised, and exceed one that was lowered.
    cdef:
        Queue* queue = engine.queues
        Exchange* exchange
        Pool* last = NULL
        uint32_t i, k
    while queue != NULL:
        for i in range(QUEUE_PRIORITIES):
            exchange = queue.lists[i].first
            while exchange != NULL:
                if exchange.pool != last:
                    last = exchange.pool
                    for k in range(last.n_backends):
                        last.backends[k].max_in_flight = last.backends[k].row.max_in_flight
                exchange = exchange.next
        queue = queue.next
    if engine.queues != NULL:
        engine.queue_work |= QUEUE_LOOK


cdef void list_waiting(SharedTable* table, uint64_t* slots) noexcept nogil:
    # Into `slots` (two words): a bit for each worker in which somebody waits, in whatever queue.
    cdef:
        uint32_t number
        SharedRow* row
    slots[0] = slots[1] = 0
    for number in range(count_rows(table)):
        row = row_at(table, number)
        if row != NULL and details_at(table, number).use != ROW_FREE:
            slots[0] |= load_long(&row.waiting[0])
            slots[1] |= load_long(&row.waiting[1])
