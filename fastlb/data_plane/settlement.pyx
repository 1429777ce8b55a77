"""What a dead worker leaves in shared memory, put right: after it, in-flight counts are exact again. The supervisor alone settles.

A row's in_flight is one number that all workers change by atomic additions; each worker also counts its claims and releases in a column
of its own. A worker killed between the two leaves them apart, and nobody can tell from the row alone by how much. But the columns of the
living say what in_flight must be without the dead one, so the dead one's are left out, and the difference is taken off:

    drift = in_flight - sum over live workers of (claims - releases);   in_flight -= drift

For that, in_flight and the columns must be read as they were at one moment, while siblings go on. An operation (claim_row, release_row)
is four stores, each visible no earlier than the one before it:

    1. operation = this row    2. in_flight +- 1    3. column + 1    4. operation = none

and a reading is four loads, each after the one before it:

    a. all columns    b. in_flight    c. all operations: none names this row    d. all columns: as in a

Such a reading is exact. Let a live worker's column show k operations in (a). Their stores 2 came before that store 3, so (b) includes
them. Suppose (b) included the k+1st as well. Its store 1 came before, so (c) sees this row named, which is refused, or its store 4 or
a later one. Then its store 3 came before what (c) saw, so (d) sees at least k+1, which is not what (a) saw: refused. Columns only grow, so
equal at (a) and (d) means unchanged between. What (b) holds beyond the live workers' k is the drift, which nobody else changes: it is
exact however many operations follow before it is taken off.

A reading that is refused is tried again; a sibling stopped in the middle of its four stores (SIGSTOP) makes every one of them fail until
it goes on or dies itself, so the tries are bounded, and what was not settled is settled later. The dead worker is marked first
(WORKER_DYING), so that two dead workers do not wait for each other, and its column is balanced after the row: a supervisor that is killed
here and starts again finds the rows that are left. (It may then count one death twice in workers_died.)

tests/property/settlement_model.py is this file and claim_row step by step: change both or neither.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.shared_table cimport (FAULT_SETTLE_BALANCED, FAULT_SETTLE_CORRECTED, FAULT_SETTLE_COUNTED, FAULT_SETTLE_MARKED,
                                             column_at, count_rows, count_workers, details_at, fault_point, row_at, worker_at)
from fastlb.data_plane.system cimport (add_count, keep_bits, load_count, load_long, load_word, memset, nanosleep, sched_yield, store_long,
                                       store_word, timespec)
from fastlb.data_plane.shared_table cimport count_meters, meters_at
from fastlb.data_plane.types cimport Meter
from fastlb.data_plane.types cimport (ROW_FREE, WORKER_CLOSED, WORKER_DYING, WORKER_FREE, WORKER_LIVE, Column, Counters, SharedRow,
                                      SharedTable, WorkerBlock)

cdef enum:
    TRIES = 1000                    # of a stable reading: one or two are enough, unless a sibling lost its processor in the middle
    TRIES_AT_ONCE = 100
    PAUSE_NS = 50000                # between the later ones, so that it gets one: together some 0.1 s


cdef struct Tally:
    uint64_t claims, releases       # sums over live workers: as each part only grows, equal sums mean equal parts


cdef Tally add_columns(SharedTable* table, uint32_t number) noexcept nogil:
    cdef:
        Tally tally
        Column* column
        uint32_t slot
    tally.claims = tally.releases = 0
    for slot in range(count_workers(table)):
        if load_word(&worker_at(table, slot).use) == WORKER_LIVE:
            column = column_at(table, number, slot)
            tally.claims += load_long(&column.claims)
            tally.releases += load_long(&column.releases)
    return tally


cdef bint is_being_changed(SharedTable* table, uint32_t number) noexcept nogil:
    cdef:
        WorkerBlock* worker
        uint32_t slot
    for slot in range(count_workers(table)):
        worker = worker_at(table, slot)
        if load_word(&worker.use) == WORKER_LIVE and load_word(&worker.operation) == number + 1:
            return True
    return False


cdef bint read_row(SharedTable* table, uint32_t number, int64_t* in_flight, int64_t* expected) noexcept nogil:
    # A row's in_flight, and what it must be by the columns of the living at the same moment. False: no reading was stable.
    cdef:
        SharedRow* row = row_at(table, number)
        Tally before, after
        timespec pause
        uint32_t i
    pause.tv_sec = 0
    pause.tv_nsec = PAUSE_NS
    if row == NULL:
        return False
    for i in range(TRIES):
        before = add_columns(table, number)
        in_flight[0] = load_count(&row.in_flight)
        if not is_being_changed(table, number):
            after = add_columns(table, number)
            if before.claims == after.claims and before.releases == after.releases:
                expected[0] = <int64_t>(before.claims - before.releases)
                return True
        if i < TRIES_AT_ONCE:
            sched_yield()
        else:
            nanosleep(&pause, NULL)
    return False


cdef bint correct_row(SharedTable* table, uint32_t number) noexcept nogil:
    # in_flight as the columns of the living have it. False: to be tried again.
    cdef int64_t in_flight = 0, expected = 0
    if not read_row(table, number, &in_flight, &expected):
        return False
    if in_flight != expected:                   # unsigned, because nobody promises that these are small
        add_count(&row_at(table, number).in_flight, <int64_t>(<uint64_t>expected - <uint64_t>in_flight))
    return True


cdef void close_counters(Counters* counters) noexcept nogil:
    # The kernel closed what was open. All that is cumulative stays: the next worker of the slot counts on.
    counters.clients_closed = counters.clients_opened
    counters.backend_connections_closed = counters.backend_connections_opened
    counters.exchanges_closed = counters.exchanges_opened
    counters.attempts_closed = counters.attempts_opened
    counters.claims_returned = counters.claims_taken
    counters.snapshots_closed = counters.snapshots_opened
    counters.tunnels_closed = counters.tunnels_opened
    counters.waits_closed = counters.waits_opened
    counters.mirrors_closed = counters.mirrors_opened
    counters.tls_closed = counters.tls_opened
    counters.http2_sessions_closed = counters.http2_sessions_opened
    counters.http2_streams_closed = counters.http2_streams_opened
    counters.backend_sessions_closed = counters.backend_sessions_opened
    counters.backend_streams_closed = counters.backend_streams_opened
    counters.udp_sessions_closed = counters.udp_sessions_opened
    counters.log_records_returned = counters.log_records_taken


cdef void close_meters(SharedTable* table, uint32_t slot) noexcept nogil:
    # As close_counters: what was open is closed.
    cdef:
        Meter* meters = meters_at(table, slot)
        uint32_t number
    for number in range(count_meters(table)):
        if meters[number].closed != meters[number].opened:
            meters[number].closed = meters[number].opened


cdef Settlement settle_worker(SharedTable* table, uint32_t slot) noexcept nogil:
    # For a slot (below MAX_WORKERS) whose process has ended, however it ended. A slot that is settled already stays as it is.
    cdef:
        Settlement result
        WorkerBlock* worker = worker_at(table, slot)
        Column* column
        uint32_t number, operation, n_rows = count_rows(table)
        bint in_order = worker.use == WORKER_CLOSED
        uint64_t taken, own = <uint64_t>1 << (slot & 63)
        uint64_t* waiting
    memset(&result, 0, sizeof(result))
    result.settled = True
    if worker.use == WORKER_FREE:
        return result
    store_word(&worker.use, WORKER_CLOSED if in_order else WORKER_DYING)
    fault_point(table, FAULT_SETTLE_MARKED)
    operation = worker.operation
    for number in range(n_rows):
        column = column_at(table, number, slot)
        if column.claims != column.releases or operation == number + 1:
            result.rows += 1
            if details_at(table, number).use != ROW_FREE and not correct_row(table, number):
                result.settled = False
                continue
            fault_point(table, FAULT_SETTLE_CORRECTED)
            store_long(&column.releases, column.claims)
            fault_point(table, FAULT_SETTLE_BALANCED)
        column.idle = 0
        waiting = &row_at(table, number).waiting[slot >> 6]
        if load_long(waiting) & own:
            keep_bits(waiting, ~own)            # who waited there is gone
        store_word(&column.held, 0)
    if not result.settled:
        return result
    worker.operation = 0
    result.exchanges_lost = worker.counters.exchanges_opened - worker.counters.exchanges_closed
    table.header.exchanges_lost += result.exchanges_lost
    table.header.workers_died += not in_order
    close_counters(&worker.counters)
    close_meters(table, slot)
    taken = worker.gauges.buffers_taken
    worker.gauges.buffers_returned = taken
    taken = worker.gauges.pipes_taken
    worker.gauges.pipes_returned = taken
    worker.gauges.clients = worker.gauges.descriptors = worker.gauges.timers = worker.gauges.backend_rows = 0
    worker.pid = 0
    worker.heartbeat_ms = 0
    worker.generation = 0
    fault_point(table, FAULT_SETTLE_COUNTED)
    store_word(&worker.use, WORKER_FREE)
    return result


cdef bint settle_rows(SharedTable* table) noexcept nogil:
    # Every row as the columns of the living have it, whoever left it otherwise. False: some were not settled.
    cdef:
        uint32_t number
        bint settled = True
    for number in range(count_rows(table)):
        if row_at(table, number) != NULL and details_at(table, number).use != ROW_FREE and not correct_row(table, number):
            settled = False
    return settled
