"""The node's shared memory: one memfd that the supervisor makes and every process maps, at its largest size, once.

It is address space until somebody writes: a file of holes, grown by whole blocks of rows and never cut (sealed against it), so that
nothing in it ever moves. Who writes what:

- the supervisor: settlement of the dead (settlement.pyx), what the header counts of them, and a guest's slot (processes/guest.py);
- the controller: the names of meters; the rows' identities and the index (add_image_rows before a snapshot is handed out, sweep_rows once every worker has
  committed it), their states (set_state), and the header's numbers of rows;
- a worker: its slot (open_worker, once that is settled), its own page, its own columns and meters, the in_flight of any row by claim_row and
  release_row, and what it learns of backends by asking them: their latency, failures and ROW_EJECTED.

There are no locks. Readers of the index look while the controller writes: a row is whole before its chain leads to it, a freed row keeps
its `next` until it is used again, and before that `index_changes` is counted up, so that a look-up which found nothing knows whether to
look again. A worker says `held` before it believes what it found, and the controller says ROW_LEAVING before it looks at `held`: one of the
two sees the other.

Workers are not trusted by the other two: whatever stands in here may be wrong, and every number that leads somewhere is checked first.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.system cimport (EINVAL, ENOMEM, ENOSPC, F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GET_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK,
                                       MAP_FAILED, MAP_NORESERVE, MAP_SHARED, MFD_ALLOW_SEALING, MFD_CLOEXEC, PROT_READ, PROT_WRITE,
                                       SEEK_END, add_count, add_long, add_word, close, errno, exchange_word_if, fcntl, ftruncate, full_fence, getrandom, load_count, load_long, load_word,
                                       lseek, memcmp, memcpy, memfd_create, memset, mmap, munmap, sched_yield, store_long, store_word, strlen)
from fastlb.data_plane.types cimport MAX_METERS
from fastlb.data_plane.types cimport (INDEX_CHAINS, MAX_IDENTITY_BYTES, MAX_ROWS, MAX_WORKERS, NODE_ROW, ROW_DISPLAY_BYTES, ROW_DOWN, ROW_FREE,
                                      ROW_CONTROLLED, ROW_LEAVING, ROW_USED, ROWS_PER_BLOCK, WORKER_FREE, WORKER_LIVE, Column, Counters,
                                      ImageBackend, ImageHeader, ImagePool, ImageSection, ImageText, LIMIT_KINDS, RowDetails, RowHealth,
                                      SharedHeader, SharedRow, SharedTable, WorkerBlock, WorkerGauges)

from fastlb.data_plane.types cimport BackendMeter, Meter, MeterDetails, MeterName

cdef extern from "<stdlib.h>" nogil:
    char* getenv(const char* name)
    unsigned long strtoul(const char* text, char** end, int base)

cdef enum:
    POOL_ROWS = 2 + LIMIT_KINDS
    TRIES = 100                     # of a look-up that the controller keeps changing under us; one is nearly always enough

cdef extern from *:
    """
    #define FASTLB_SHARED_MAGIC 0x0064656168736600ull   /* "fshaed" between zero bytes */
    """
    uint64_t SHARED_MAGIC "FASTLB_SHARED_MAGIC"


# ---------------------------------------------------------------------------------------------------------------- mapping
cdef void read_fault_point(SharedTable* table) noexcept nogil:
    # FASTLB_FAULT_POINT=POINT,AFTER: for tests that end processes they do not start themselves. Without the hook it has no effect.
    cdef:
        const char* text = getenv(b"FASTLB_FAULT_POINT")
        char* end = NULL
    if text == NULL:
        return
    table.fault_point = <uint32_t>strtoul(text, &end, 10)
    if end[0] == 44:                            # a comma
        table.fault_after = <uint32_t>strtoul(end + 1, NULL, 10)


cdef int map_descriptor(SharedTable* table) noexcept nogil:
    # 0 or an errno.
    cdef void* base = mmap(NULL, shared_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, table.fd, 0)
    if base == MAP_FAILED:
        return errno
    table.base = <char*>base
    table.header = <SharedHeader*>base
    measure_rows(table)
    table.free_cursor = 1
    read_fault_point(table)
    return 0


cdef int create_shared(SharedTable* table, const char* build) noexcept nogil:
    # New memory with the node's own row and nothing else. 0, or an errno with everything given back.
    cdef:
        RowDetails* node
        int error
    memset(table, 0, sizeof(SharedTable))
    table.fd = memfd_create(b"fastlb-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if table.fd < 0:
        return errno
    # Nobody can cut it, which would end whoever reads it; nor seal it against growing.
    if ftruncate(table.fd, BLOCKS_AT + BLOCK_BYTES) != 0 or fcntl(table.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0:
        error = errno
        close_shared(table)
        return error
    error = map_descriptor(table)
    if error:
        close_shared(table)
        return error
    node = details_at(table, NODE_ROW)
    node.use = ROW_USED
    node.display_size = 8
    memcpy(node.display, b"the node", 8)
    table.header.n_rows = 1
    if getrandom(table.header.sticky_key, sizeof(table.header.sticky_key), 0) != <ssize_t>sizeof(table.header.sticky_key) \
            or getrandom(&table.header.identity, sizeof(uint64_t), 0) != <ssize_t>sizeof(uint64_t):
        error = errno
        close_shared(table)
        return error
    table.header.layout_version = SHARED_LAYOUT
    table.header.layout_sizes = measure_layout()
    memcpy(table.header.build, build, min(strlen(build), sizeof(table.header.build) - 1))
    store_long(&table.header.magic, SHARED_MAGIC)
    return 0


cdef uint64_t measure_layout() noexcept nogil:
    # A number that differs where a struct has another size: what was forgotten when SHARED_LAYOUT should have been raised. FNV-1a.
    cdef:
        size_t sizes[17]
        uint64_t value = <uint64_t>0xCBF29CE484222325
        uint32_t i
    sizes[0], sizes[1], sizes[2] = sizeof(SharedHeader), sizeof(SharedRow), sizeof(RowDetails)
    sizes[3], sizes[4], sizes[5] = sizeof(Column), sizeof(WorkerBlock), sizeof(Counters)
    sizes[6], sizes[7], sizes[8] = sizeof(WorkerGauges), MAX_WORKERS, ROWS_PER_BLOCK
    sizes[9], sizes[10], sizes[11] = <size_t>INDEX_AT, <size_t>BLOCKS_AT, <size_t>BLOCK_BYTES
    sizes[12], sizes[13], sizes[14] = sizeof(RowHealth), sizeof(Meter), sizeof(BackendMeter)
    sizes[15], sizes[16] = sizeof(MeterDetails), sizeof(MeterName)
    for i in range(17):
        value = (value ^ <uint64_t>sizes[i]) * <uint64_t>0x100000001B3
    return value


cdef int map_shared(SharedTable* table, int fd) noexcept nogil:
    # Maps what another process made, of this build or of another one with the same layout. The descriptor is copied and stays the
    # caller's. 0; -1: it is not ours, or of another layout; or an errno.
    cdef:
        int64_t file_bytes = lseek(fd, 0, SEEK_END)
        int error
    memset(table, 0, sizeof(SharedTable))
    table.fd = -1
    if file_bytes < 0:
        return errno
    if file_bytes < BLOCKS_AT + BLOCK_BYTES or not fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK:
        return -1
    table.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)
    if table.fd < 0:
        return errno
    error = map_descriptor(table)
    if error:
        close_shared(table)
        return error
    if load_long(&table.header.magic) != SHARED_MAGIC or table.header.layout_version != SHARED_LAYOUT \
            or table.header.layout_sizes != measure_layout():
        close_shared(table)
        return -1
    return 0


cdef void close_shared(SharedTable* table) noexcept nogil:
    # Safe on a table that is not open.
    if table.base != NULL:
        munmap(table.base, shared_bytes())
        table.base = NULL
        table.header = NULL
    if table.fd >= 0:
        close(table.fd)
        table.fd = -1


cdef uint32_t measure_rows(SharedTable* table) noexcept nogil:
    # How many rows the file has room for; it only grows. Asked of the kernel: a number in the memory itself could end the reader.
    cdef:
        int64_t file_bytes = lseek(table.fd, 0, SEEK_END)
        int64_t blocks
    if file_bytes >= 0:
        blocks = (file_bytes - BLOCKS_AT) // BLOCK_BYTES
        table.n_rows = <uint32_t>(min(blocks, <int64_t>MAX_BLOCKS)) * ROWS_PER_BLOCK
    return table.n_rows


cdef uint32_t count_rows(SharedTable* table) noexcept nogil:
    # Rows in use or used before, the node's included: all of them can be looked at.
    cdef uint32_t n = load_word(&table.header.n_rows)
    if n > table.n_rows:
        measure_rows(table)
    return min(n, table.n_rows)


cdef uint32_t count_workers(const SharedTable* table) noexcept nogil:
    return min(load_word(&table.header.n_workers), <uint32_t>MAX_WORKERS)


cdef uint32_t count_meters(const SharedTable* table) noexcept nogil:
    return min(load_word(&table.header.n_meters), <uint32_t>MAX_METERS)


cdef bint open_worker(SharedTable* table, uint32_t slot, int32_t pid) noexcept nogil:
    # Makes a slot (below MAX_WORKERS) a worker's. False: it is in use, or its last worker is not settled yet. Several workers may open
    # theirs at the same moment, but nobody else this one.
    cdef:
        WorkerBlock* worker = worker_at(table, slot)
        uint32_t n_workers = load_word(&table.header.n_workers)
    if worker.use != WORKER_FREE:
        return False
    worker.operation = 0
    worker.heartbeat_ms = 0
    worker.generation = 0
    worker.guest = 0
    worker.pid = pid
    while slot >= n_workers and not exchange_word_if(&table.header.n_workers, &n_workers, slot + 1):
        pass                                    # n_workers is what another one has just made of it
    store_word(&worker.use, WORKER_LIVE)
    return True


# ---------------------------------------------------------------------------------------------------------------- guests
cdef bint open_guest(SharedTable* table, uint32_t slot, int32_t pid, uint64_t identity) noexcept nogil:
    # A slot, as open_worker, in which the supervisor counts what is counted in the memory `identity`: nobody else writes there.
    if not open_worker(table, slot, pid):
        return False
    worker_at(table, slot).guest = identity
    return True


cdef void change_claims(SharedTable* table, uint32_t slot, uint32_t number, uint64_t claims, uint64_t releases) noexcept nogil:
    # So many claims and releases of a guest on a row that it holds, no more of them than it has: claim_row and release_row in one. A reading
    # between the two stores to the column is refused as any: (c) sees the row named, or (d) another column than (a) did (settlement.pyx).
    cdef:
        WorkerBlock* worker = worker_at(table, slot)
        Column* column = column_at(table, number, slot)
    store_word(&worker.operation, number + 1)
    add_count(&row_at(table, number).in_flight, <int64_t>(claims - releases))
    store_long(&column.claims, column.claims + claims)
    store_long(&column.releases, column.releases + releases)
    store_word(&worker.operation, 0)


# ---------------------------------------------------------------------------------------------------------------- index
cdef uint64_t hash_identity(const char* text, uint32_t size) noexcept nogil:
    # FNV-1a.
    cdef:
        uint64_t value = <uint64_t>0xCBF29CE484222325
        uint32_t i
    for i in range(size):
        value = (value ^ <unsigned char>text[i]) * <uint64_t>0x100000001B3
    return value


cdef inline uint32_t* chain_of(const SharedTable* table, uint64_t hash) noexcept nogil:
    return &(<uint32_t*>(table.base + INDEX_AT))[hash & <uint64_t>(INDEX_CHAINS - 1)]


cdef inline bint is_row_of(const RowDetails* row, uint64_t hash, const char* identity, uint32_t size) noexcept nogil:
    return row.identity_hash == hash and row.identity_size == size and memcmp(row.identity, identity, size) == 0


cdef uint32_t find_row(SharedTable* table, const char* identity, uint32_t identity_size) noexcept nogil:
    # Number of the row with this identity, 0 = none. Unless the caller is the controller, it must be held before it is believed.
    cdef:
        uint64_t hash = hash_identity(identity, identity_size), changes
        uint32_t number, _i, _k
        RowDetails* row
    if identity_size > MAX_IDENTITY_BYTES:
        return 0
    for _i in range(TRIES):
        changes = load_long(&table.header.index_changes)
        number = load_word(chain_of(table, hash))
        for _k in range(MAX_ROWS):              # no longer, should somebody have made a ring of it
            if number == 0:
                break
            if row_at(table, number) == NULL:
                break
            row = details_at(table, number)
            if is_row_of(row, hash, identity, identity_size):
                return number
            number = load_word(&row.next)
        if load_long(&table.header.index_changes) == changes:
            return 0
    return 0


cdef uint32_t hold_row(SharedTable* table, uint32_t slot, const char* identity, uint32_t identity_size) noexcept nogil:
    # find_row, and from now on this worker holds it, until it sets Column.held to 0. 0: there is no such row.
    cdef:
        uint64_t hash = hash_identity(identity, identity_size)
        uint32_t number, _i
        RowDetails* row
        Column* column
    for _i in range(TRIES):
        number = find_row(table, identity, identity_size)
        if number == 0:
            return 0
        row = details_at(table, number)
        column = column_at(table, number, slot)
        store_word(&column.held, 1)
        full_fence()                            # pairs with the one in is_held: either we see ROW_LEAVING or the controller sees us
        if load_word(&row.use) == ROW_USED and is_row_of(row, hash, identity, identity_size):
            return number
        store_word(&column.held, 0)
        sched_yield()
    return 0


# ---------------------------------------------------------------------------------------------------------------- the controller's part
cdef uint32_t take_free(SharedTable* table, uint32_t n_rows) noexcept nogil:
    # A row that was freed, ready to be filled in; 0 = none.
    cdef:
        uint32_t number, slot, _i
        Column* column
    if table.header.n_free == 0:
        return 0
    for _i in range(n_rows):
        if table.free_cursor == 0 or table.free_cursor >= n_rows:
            table.free_cursor = 1
        number = table.free_cursor
        table.free_cursor += 1
        if number < n_rows and row_at(table, number) != NULL and details_at(table, number).use == ROW_FREE:
            table.header.n_free -= 1
            store_long(&table.header.index_changes, table.header.index_changes + 1)
            for slot in range(count_workers(table)):
                column = column_at(table, number, slot)     # nobody holds it, so these are ours
                column.claims = column.releases = column.failures = 0
                memset(backend_meter_at(table, number, slot), 0, BACKEND_METER_BYTES)
            return number
    table.header.n_free = 0
    return 0


cdef uint32_t take_new(SharedTable* table, uint32_t n_rows, int* error) noexcept nogil:
    # The next row that was never used; the file grows where it has to. 0: *error is an errno.
    if n_rows >= MAX_ROWS:
        error[0] = ENOSPC
        return 0
    if n_rows >= table.n_rows and n_rows >= measure_rows(table):
        if ftruncate(table.fd, BLOCKS_AT + <int64_t>(n_rows // ROWS_PER_BLOCK + 1) * BLOCK_BYTES) != 0:
            error[0] = errno
            return 0
        if n_rows >= measure_rows(table):
            error[0] = ENOMEM
            return 0
    store_word(&table.header.n_rows, n_rows + 1)
    return n_rows


cdef int add_row(SharedTable* table, const char* identity, uint32_t identity_size, const char* display, uint32_t display_size,
                 uint64_t up_since_ms) noexcept nogil:
    # Makes sure that this identity has a row; a new one is up and ready. 0, or an errno: ENOSPC = MAX_ROWS are in use, EINVAL = the
    # identity is too long.
    cdef:
        uint64_t hash = hash_identity(identity, identity_size)
        uint32_t number = find_row(table, identity, identity_size), n_rows = max(count_rows(table), <uint32_t>1)
        uint32_t* chain = chain_of(table, hash)
        SharedRow* row
        RowDetails* details
        int error = 0
    if identity_size > MAX_IDENTITY_BYTES:
        return EINVAL
    if number != 0:
        details = details_at(table, number)
        if details.use != ROW_USED:
            store_word(&details.use, ROW_USED)  # the controller before us ended while it looked whether this row is held
        return 0
    number = take_free(table, n_rows)
    if number == 0:
        number = take_new(table, n_rows, &error)
    if number == 0:
        return error
    row = row_at(table, number)
    memset(row, 0, sizeof(SharedRow))
    row.up_since_ms = up_since_ms
    details = details_at(table, number)
    details.identity_hash = hash
    details.identity_size = identity_size
    memcpy(details.identity, identity, identity_size)
    details.display_size = min(display_size, <uint32_t>ROW_DISPLAY_BYTES)
    memcpy(details.display, display, details.display_size)
    details.ups = details.downs = 0
    details.changed_ms = 0
    memset(&details.health, 0, sizeof(RowHealth))
    store_word(&details.next, load_word(chain))
    store_word(&details.use, ROW_USED)
    store_word(chain, number)                   # from here on it can be found
    return 0


cdef bint has_row(SharedTable* table, const char* image, const ImageBackend* backends, const ImageSection* wanted) noexcept nogil:
    # Whether a backend of a pool has a row already: then the pool runs.
    cdef uint32_t i
    for i in range(wanted.offset, wanted.offset + wanted.count):
        if find_row(table, image + backends[i].identity.offset, backends[i].identity.size) != 0:
            return True
    return False


cdef int add_image_row(SharedTable* table, const char* image, const ImageBackend* backend, uint64_t up_since_ms) noexcept nogil:
    return add_row(table, image + backend.identity.offset, backend.identity.size, image + backend.display.offset, backend.display.size,
                   up_since_ms)


cdef inline const ImageText* pool_row(const ImagePool* pool, uint32_t i) noexcept nogil:
    # The identities of the rows that a pool itself has, below POOL_ROWS; of size 0 where it has none.
    if i == 0:
        return &pool.queue
    return &pool.health.row if i == 1 else &pool.limits[i - 2].row


cdef int add_image_rows(SharedTable* table, const char* image, uint64_t now_ms) noexcept nogil:
    # A row for every backend of a checked image and those of its pools; a backend that joins a running pool has come up just now. 0, or an errno of add_row; rows added
    # before that stay until the next sweep.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImagePool* pools = <const ImagePool*>(image + header.pools.offset)
        const ImageBackend* backends = <const ImageBackend*>(image + header.backends.offset)
        const ImageText* row
        uint32_t i, k
        uint64_t up_since_ms
        int error
    for i in range(header.pools.count):
        up_since_ms = now_ms if has_row(table, image, backends, &pools[i].backends) else 0
        for k in range(pools[i].backends.offset, pools[i].backends.offset + pools[i].backends.count):
            error = add_image_row(table, image, &backends[k], up_since_ms)
            if error:
                return error
    for k in range(header.backends.count):      # load_snapshot holds them all, even one that no pool lists
        error = add_image_row(table, image, &backends[k], 0)
        if error:
            return error
    for i in range(header.pools.count):
        for k in range(POOL_ROWS):
            row = pool_row(&pools[i], k)
            if row.size != 0:
                error = add_row(table, image + row.offset, row.size, image + pools[i].name.offset, pools[i].name.size, 0)
                if error:
                    return error
    return 0


cdef inline void note_health(RowDetails* details, bint is_up, uint64_t now_ms) noexcept nogil:
    # Health checks have changed their verdict of this row's backend.
    if is_up:
        add_word(&details.ups, 1)               # the supervisor adds a guest's
    else:
        add_word(&details.downs, 1)
    store_long(&details.changed_ms, now_ms)


cdef bint set_state(SharedTable* table, const char* identity, uint32_t identity_size, uint32_t state, uint64_t now_ms) noexcept nogil:
    # What health checks and the operator say of a backend, in bits of ROW_CONTROLLED; what workers say of it stays. False: it has no row.
    cdef:
        uint32_t number = find_row(table, identity, identity_size), before
        SharedRow* row
    if number == 0:
        return False
    row = row_at(table, number)
    before = load_word(&row.state)
    if state == before & ROW_CONTROLLED:
        return True
    if (state ^ before) & ROW_DOWN:
        note_health(details_at(table, number), state & ROW_DOWN == 0, now_ms)
    if state == 0:
        note_return(row, now_ms)
        store_word(&row.failed_in_row, 0)       # passive health begins anew, too
        store_long(&details_at(table, number).health.window_ms, 0)
    while not exchange_word_if(&row.state, &before, (before & ~<uint32_t>ROW_CONTROLLED) | state):
        pass                                    # `before` is what a worker has just made of it
    add_long(&table.header.state_changes, 1)
    return True


cdef bint is_held(SharedTable* table, const SharedRow* row, uint32_t number) noexcept nogil:
    # Whether a worker may claim on this row or has, after ROW_LEAVING was stored.
    cdef uint32_t slot
    full_fence()                                # pairs with the one in hold_row
    if load_count(&row.in_flight) != 0:
        return True
    for slot in range(count_workers(table)):
        if load_word(&column_at(table, number, slot).held) != 0:
            return True
    return False


cdef void unlink_row(SharedTable* table, const RowDetails* row, uint32_t number) noexcept nogil:
    # Out of its chain; its own `next` stays for those who stand on it.
    cdef:
        uint32_t* link = chain_of(table, row.identity_hash)
        uint32_t at = link[0], _i
    for _i in range(MAX_ROWS):
        if at == number:
            store_word(link, row.next)
            return
        if at == 0 or row_at(table, at) == NULL:
            return
        link = &details_at(table, at).next
        at = link[0]


cdef int64_t sweep_rows(SharedTable* table, const char* image) noexcept nogil:
    # Frees the rows that this checked image does not list, no worker holds and nothing is in flight on. How many; -1: out of memory.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageBackend* backends = <const ImageBackend*>(image + header.backends.offset)
        const ImagePool* pools = <const ImagePool*>(image + header.pools.offset)
        const ImageText* pool
        uint32_t n_rows = count_rows(table), number, i, k
        unsigned char* listed = <unsigned char*>calloc(n_rows + 1, 1)
        SharedRow* row
        RowDetails* details
        int64_t freed = 0
    if listed == NULL:
        return -1
    for i in range(header.backends.count):
        number = find_row(table, image + backends[i].identity.offset, backends[i].identity.size)
        if number < n_rows:
            listed[number] = 1
    for i in range(header.pools.count):
        for k in range(POOL_ROWS):
            pool = pool_row(&pools[i], k)
            number = find_row(table, image + pool.offset, pool.size) if pool.size != 0 else 0
            if number < n_rows:
                listed[number] = 1
    for number in range(1, n_rows):
        row = row_at(table, number)
        if listed[number] or row == NULL:
            continue
        details = details_at(table, number)
        if details.use == ROW_FREE:
            continue
        store_word(&details.use, ROW_LEAVING)
        if is_held(table, row, number):
            store_word(&details.use, ROW_USED)
            continue
        unlink_row(table, details, number)
        store_word(&details.use, ROW_FREE)
        table.header.n_free += 1
        freed += 1
    free(listed)
    return freed
