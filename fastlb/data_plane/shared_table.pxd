"""Shared memory: where everything lies, and claim and release, the two that every exchange passes.

The order of the stores in claim_row and release_row is what makes settlement exact (settlement.pyx argues it);
tests/property/settlement_model.py repeats it step by step: change both or neither.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport add_count, exchange_if, load_relaxed, store_long, store_word
from fastlb.data_plane.types cimport (INDEX_CHAINS, MAX_ROWS, MAX_WORKERS, ROWS_PER_BLOCK, Column, RowDetails, SharedRow, SharedTable,
                                      WorkerBlock)
from fastlb.data_plane.types cimport MAX_METERS, BackendMeter, Meter, MeterDetails, MeterName

cdef enum:
    # Raise it whenever something here means something else than before, or claim_row, release_row or settlement go another way: builds of
    # one layout work on one memory at the same time, during an upgrade.
    SHARED_LAYOUT = 8
    # Offsets: the header's page, the legend (_legend.pyx), which stays where it is in every layout to come, a page per worker, the index, the
    # sticky table, then blocks of rows. Only what is used takes memory.
    LEGEND_AT = 4096
    LEGEND_BYTES = 12288            # its size in the first four, then JSON
    WORKERS_AT = LEGEND_AT + LEGEND_BYTES
    WORKER_BYTES = 4096
    INDEX_AT = WORKERS_AT + MAX_WORKERS * WORKER_BYTES
    STICKY_AT = INDEX_AT + INDEX_CHAINS * 4
    STICKY_BUCKETS = 131072         # a power of two; eight records of eight bytes each (sticky_table.pyx)
    # Names of meters, then per worker its meters, one behind the other, and then their details.
    METER_NAMES_AT = STICKY_AT + STICKY_BUCKETS * 64
    METER_NAME_BYTES = 256
    METERS_AT = METER_NAMES_AT + MAX_METERS * METER_NAME_BYTES
    METER_BYTES = 128
    METER_DETAILS_BYTES = 2624
    WORKER_METERS_BYTES = MAX_METERS * (METER_BYTES + METER_DETAILS_BYTES)
    BLOCKS_AT = METERS_AT + MAX_WORKERS * WORKER_METERS_BYTES
    # A block: its rows, a cache line each and side by side, because a pick may read those of a whole pool; their details; then per worker
    # one page with the columns of these rows, so that no two workers write to one cache line, and per worker what metrics count of them.
    ROW_BYTES = 64
    DETAILS_BYTES = 672
    COLUMN_BYTES = 32
    DETAILS_AT = ROWS_PER_BLOCK * ROW_BYTES
    COLUMNS_AT = DETAILS_AT + ROWS_PER_BLOCK * DETAILS_BYTES
    WORKER_COLUMNS_BYTES = ROWS_PER_BLOCK * COLUMN_BYTES
    BACKEND_METERS_AT = COLUMNS_AT + MAX_WORKERS * WORKER_COLUMNS_BYTES
    BACKEND_METER_BYTES = 192
    WORKER_BACKEND_METERS_BYTES = ROWS_PER_BLOCK * BACKEND_METER_BYTES
    BLOCK_BYTES = BACKEND_METERS_AT + MAX_WORKERS * WORKER_BACKEND_METERS_BYTES
    MAX_BLOCKS = 512                # MAX_ROWS rows

# Where a process may be told to end itself, for the tests of settlement (fault_point below).
cdef enum FaultPoint:
    FAULT_NONE = 0
    FAULT_CLAIM_NAMED = 1
    FAULT_CLAIM_ADDED = 2
    FAULT_CLAIM_NOTED = 3
    FAULT_RELEASE_NAMED = 4
    FAULT_RELEASE_TAKEN = 5
    FAULT_RELEASE_NOTED = 6
    FAULT_SETTLE_MARKED = 7
    FAULT_SETTLE_CORRECTED = 8
    FAULT_SETTLE_BALANCED = 9
    FAULT_SETTLE_COUNTED = 10
    FAULT_END = 11

cdef extern from *:
    """
    #ifdef FASTLB_FAULT_HOOK
    #include <signal.h>
    #define fastlb_has_fault_hook 1
    #define fastlb_fault_point(table, point) \\
        ((table)->fault_point == (unsigned)(point) && --(table)->fault_after == 0 ? (void)raise(SIGKILL) : (void)0)
    #else
    #define fastlb_has_fault_hook 0
    #define fastlb_fault_point(table, point) ((void)0)
    #endif
    """
    bint has_fault_hook "fastlb_has_fault_hook"
    # Nothing, unless compiled with FASTLB_FAULT_HOOK: then it ends this process when the point and its count are those set.
    void fault_point "fastlb_fault_point"(SharedTable* table, FaultPoint point) nogil

cdef int create_shared(SharedTable* table, const char* build) noexcept nogil
cdef int map_shared(SharedTable* table, int fd) noexcept nogil
cdef void close_shared(SharedTable* table) noexcept nogil
cdef uint32_t measure_rows(SharedTable* table) noexcept nogil
cdef uint32_t count_rows(SharedTable* table) noexcept nogil
cdef uint32_t count_workers(const SharedTable* table) noexcept nogil
cdef uint32_t count_meters(const SharedTable* table) noexcept nogil
cdef bint open_worker(SharedTable* table, uint32_t slot, int32_t pid) noexcept nogil
cdef bint open_guest(SharedTable* table, uint32_t slot, int32_t pid, uint64_t identity) noexcept nogil
cdef void change_claims(SharedTable* table, uint32_t slot, uint32_t number, uint64_t claims, uint64_t releases) noexcept nogil
cdef uint64_t hash_identity(const char* text, uint32_t size) noexcept nogil
cdef uint32_t find_row(SharedTable* table, const char* identity, uint32_t identity_size) noexcept nogil
cdef uint32_t hold_row(SharedTable* table, uint32_t slot, const char* identity, uint32_t identity_size) noexcept nogil
cdef int add_row(SharedTable* table, const char* identity, uint32_t identity_size, const char* display, uint32_t display_size,
                 uint64_t up_since_ms) noexcept nogil
cdef int add_image_rows(SharedTable* table, const char* image, uint64_t now_ms) noexcept nogil
cdef bint set_state(SharedTable* table, const char* identity, uint32_t identity_size, uint32_t state, uint64_t now_ms) noexcept nogil
cdef int64_t sweep_rows(SharedTable* table, const char* image) noexcept nogil


cdef inline WorkerBlock* worker_at(const SharedTable* table, uint32_t slot) noexcept nogil:
    # `slot` is below MAX_WORKERS.
    return <WorkerBlock*>(table.base + WORKERS_AT + <size_t>slot * WORKER_BYTES)


cdef inline SharedRow* row_at(SharedTable* table, uint32_t number) noexcept nogil:
    # NULL: the file has no such row. Numbers read from shared memory are whatever somebody wrote there.
    if number >= table.n_rows and number >= measure_rows(table):
        return NULL
    return <SharedRow*>(table.base + BLOCKS_AT + <size_t>(number // ROWS_PER_BLOCK) * BLOCK_BYTES
                        + <size_t>(number % ROWS_PER_BLOCK) * ROW_BYTES)


cdef inline RowDetails* details_at(const SharedTable* table, uint32_t number) noexcept nogil:
    # For a number that row_at knows.
    return <RowDetails*>(table.base + BLOCKS_AT + <size_t>(number // ROWS_PER_BLOCK) * BLOCK_BYTES + DETAILS_AT
                         + <size_t>(number % ROWS_PER_BLOCK) * DETAILS_BYTES)


cdef inline Column* column_at(const SharedTable* table, uint32_t number, uint32_t slot) noexcept nogil:
    # For a number that row_at knows and a slot below MAX_WORKERS.
    return <Column*>(table.base + BLOCKS_AT + <size_t>(number // ROWS_PER_BLOCK) * BLOCK_BYTES + COLUMNS_AT
                     + <size_t>slot * WORKER_COLUMNS_BYTES + <size_t>(number % ROWS_PER_BLOCK) * COLUMN_BYTES)


cdef inline void note_return(SharedRow* row, uint64_t now_ms) noexcept nogil:
    # Before a bit of its state is cleared that kept it from being picked: its weight begins anew (slow start), and what its latency was before
    # says little about what it is now.
    store_long(&row.up_since_ms, now_ms)
    store_long(&row.latency, 0)


cdef inline size_t shared_bytes() noexcept nogil:
    # The largest size: 2.6 GB of address space, and of memory what is used.
    return <size_t>BLOCKS_AT + <size_t>MAX_BLOCKS * <size_t>BLOCK_BYTES


cdef inline BackendMeter* backend_meter_at(const SharedTable* table, uint32_t number, uint32_t slot) noexcept nogil:
    # For a number that row_at knows and a slot below MAX_WORKERS.
    return <BackendMeter*>(table.base + BLOCKS_AT + <size_t>(number // ROWS_PER_BLOCK) * BLOCK_BYTES + BACKEND_METERS_AT
                           + <size_t>slot * WORKER_BACKEND_METERS_BYTES + <size_t>(number % ROWS_PER_BLOCK) * BACKEND_METER_BYTES)


cdef inline MeterName* meter_name_at(const SharedTable* table, uint32_t number) noexcept nogil:
    # For a number below MAX_METERS.
    return <MeterName*>(table.base + METER_NAMES_AT) + number


cdef inline Meter* meters_at(const SharedTable* table, uint32_t slot) noexcept nogil:
    # The meters of a slot below MAX_WORKERS, by number.
    return <Meter*>(table.base + METERS_AT + <size_t>slot * WORKER_METERS_BYTES)


cdef inline MeterDetails* meter_details_at(const SharedTable* table, uint32_t slot) noexcept nogil:
    return <MeterDetails*>(table.base + METERS_AT + <size_t>slot * WORKER_METERS_BYTES + <size_t>MAX_METERS * METER_BYTES)


cdef inline bint claim_row(SharedTable* table, WorkerBlock* worker, SharedRow* row, Column* column, uint32_t number,
                           uint32_t cap) noexcept nogil:
    # One more in flight on a row; False, with nothing written, at its cap (0 = none). The only place where in_flight grows.
    # The cap holds at every instant: a try that finds it reached meanwhile has added nothing.
    cdef int64_t now = load_relaxed(&row.in_flight)
    if cap != 0 and now >= <int64_t>cap:
        return False
    store_word(&worker.operation, number + 1)
    fault_point(table, FAULT_CLAIM_NAMED)
    if cap == 0:
        add_count(&row.in_flight, 1)
    else:
        while not exchange_if(&row.in_flight, &now, now + 1):
            if now >= <int64_t>cap:
                store_word(&worker.operation, 0)
                return False
    fault_point(table, FAULT_CLAIM_ADDED)
    store_long(&column.claims, column.claims + 1)
    fault_point(table, FAULT_CLAIM_NOTED)
    store_word(&worker.operation, 0)
    return True


cdef inline void release_row(SharedTable* table, WorkerBlock* worker, SharedRow* row, Column* column, uint32_t number) noexcept nogil:
    # One less. Besides settlement the only place where in_flight falls.
    store_word(&worker.operation, number + 1)
    fault_point(table, FAULT_RELEASE_NAMED)
    add_count(&row.in_flight, -1)
    fault_point(table, FAULT_RELEASE_TAKEN)
    store_long(&column.releases, column.releases + 1)
    fault_point(table, FAULT_RELEASE_NOTED)
    store_word(&worker.operation, 0)
