"""This worker's running rows of backends, found by identity ("POOL|ADDRESS"), outliving snapshots.

A row carries what must not start again at a reload: the place of its counts in shared memory, idle connections. It is counted by the
snapshots that list it, the attempts on it and the connections to it, and goes with the last of them; as long as it is here, the row in
shared memory is held. State: Engine.backends.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.shared_table cimport backend_meter_at, column_at, hash_identity, hold_row, row_at
from fastlb.data_plane.system cimport ENOMEM, memcmp, memcpy, memset, store_word
from fastlb.data_plane.tls cimport drop_tls_session
from fastlb.data_plane.types cimport NO_SHARED_ROW, Backend, BackendTable, Queue, SharedTable

cdef enum:
    CHAINS = 1024                   # a power of two; pools of a few thousand backends stay at a few steps a look-up, at apply only


cdef int backend_table_open(BackendTable* table, SharedTable* shared, uint32_t slot) noexcept nogil:
    memset(table, 0, sizeof(BackendTable))
    table.shared = shared
    table.slot = slot
    table.chains = <Backend**>calloc(CHAINS, sizeof(Backend*))
    table.n_chains = CHAINS
    return 0 if table.chains != NULL else -1


cdef void free_row(Backend* backend) noexcept nogil:
    backend.column.idle = 0
    store_word(&backend.column.held, 0)         # last: the controller may free the row in shared memory from here on
    free(backend.identity)
    backend.identity = NULL
    free(backend.waiting)
    backend.waiting = NULL
    drop_tls_session(backend)
    free(backend)


cdef void backend_table_close(BackendTable* table) noexcept nogil:
    cdef:
        uint32_t i
        Backend* backend
    if table.chains == NULL:
        return
    for i in range(table.n_chains):
        while table.chains[i] != NULL:
            backend = table.chains[i]
            table.chains[i] = backend.next
            free_row(backend)
    free(table.chains)
    table.chains = NULL


cdef Backend* hold_backend(BackendTable* table, const char* identity, uint32_t identity_size, int* error) noexcept nogil:
    # The row of this identity, made if new, with one more reference. NULL: *error is ENOMEM, or NO_SHARED_ROW where the controller has
    # made none for it.
    cdef:
        uint64_t hash = hash_identity(identity, identity_size)
        uint32_t number
        Backend** chain = &table.chains[hash & (table.n_chains - 1)]
        Backend* backend = chain[0]
    while backend != NULL:
        if backend.identity_hash == hash and backend.identity_size == identity_size and \
                memcmp(backend.identity, identity, identity_size) == 0:
            backend.references += 1
            return backend
        backend = backend.next
    error[0] = ENOMEM
    backend = <Backend*>calloc(1, sizeof(Backend))
    if backend == NULL:
        return NULL
    backend.identity = <char*>malloc(identity_size + 1)
    if backend.identity == NULL:
        free(backend)
        return NULL
    number = hold_row(table.shared, table.slot, identity, identity_size)
    if number == 0:
        error[0] = NO_SHARED_ROW
        free(backend.identity)
        free(backend)
        return NULL
    backend.number = number
    backend.shared = row_at(table.shared, number)
    backend.column = column_at(table.shared, number, table.slot)
    backend.meter = backend_meter_at(table.shared, number, table.slot)
    memcpy(backend.identity, identity, identity_size)
    backend.identity[identity_size] = 0
    backend.identity_size = identity_size
    backend.identity_hash = hash
    backend.references = 1
    backend.next = chain[0]
    chain[0] = backend
    table.count += 1
    return backend


cdef void drop_backend(BackendTable* table, Backend* backend) noexcept nogil:
    # One reference less; the last one frees the row, and lets go of its queue's.
    cdef:
        Backend** link
        Backend* queue = backend.queue
    backend.references -= 1
    if backend.references > 0:
        return
    link = &table.chains[backend.identity_hash & (table.n_chains - 1)]
    while link[0] != backend:
        link = &link[0].next
    link[0] = backend.next
    table.count -= 1
    free_row(backend)
    if queue != NULL:
        drop_backend(table, queue)


cdef Queue* hold_queue(BackendTable* table, const char* identity, uint32_t identity_size, int* error) noexcept nogil:
    # As hold_backend, for the row of a pool's queue. It is let go of by drop_backend of Queue.row.
    cdef Backend* row = hold_backend(table, identity, identity_size, error)
    if row == NULL:
        return NULL
    if row.waiting == NULL:
        row.waiting = <Queue*>calloc(1, sizeof(Queue))
        if row.waiting == NULL:
            error[0] = ENOMEM
            drop_backend(table, row)
            return NULL
        row.waiting.row = row
    return row.waiting


cdef void set_queue(BackendTable* table, Backend* backend, const Queue* queue) noexcept nogil:
    # Whom a release of this backend tells from now on; NULL = nobody.
    cdef Backend* before = backend.queue
    backend.queue = queue.row if queue != NULL else NULL
    if backend.queue != NULL:
        backend.queue.references += 1
    if before != NULL:
        drop_backend(table, before)
