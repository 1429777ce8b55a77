"""Running rows of backends, found by identity ("POOL|ADDRESS"), outliving snapshots.

A row carries what must not start again at a reload: in-flight count, totals, idle connections. It is counted by the snapshots
that list it, the attempts on it and the connections to it, and goes with the last of them. State: Engine.backends.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.system cimport memcmp, memcpy, memset
from fastlb.data_plane.types cimport Backend, BackendTable

cdef enum:
    CHAINS = 1024                   # a power of two; pools of a few thousand backends stay at a few steps a look-up, at apply only


cdef int backend_table_open(BackendTable* table) noexcept nogil:
    memset(table, 0, sizeof(BackendTable))
    table.chains = <Backend**>calloc(CHAINS, sizeof(Backend*))
    table.n_chains = CHAINS
    return 0 if table.chains != NULL else -1


cdef void free_row(Backend* backend) noexcept nogil:
    free(backend.identity)
    backend.identity = NULL
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


cdef uint64_t hash_identity(const char* text, uint32_t size) noexcept nogil:
    # FNV-1a.
    cdef:
        uint64_t value = <uint64_t>0xCBF29CE484222325
        uint32_t i
    for i in range(size):
        value = (value ^ <unsigned char>text[i]) * <uint64_t>0x100000001B3
    return value


cdef Backend* hold_backend(BackendTable* table, const char* identity, uint32_t identity_size) noexcept nogil:
    # The row of this identity, made if new, with one more reference. NULL: out of memory.
    cdef:
        uint64_t hash = hash_identity(identity, identity_size)
        Backend** chain = &table.chains[hash & (table.n_chains - 1)]
        Backend* backend = chain[0]
    while backend != NULL:
        if backend.identity_hash == hash and backend.identity_size == identity_size and \
                memcmp(backend.identity, identity, identity_size) == 0:
            backend.references += 1
            return backend
        backend = backend.next
    backend = <Backend*>calloc(1, sizeof(Backend))
    if backend == NULL:
        return NULL
    backend.identity = <char*>malloc(identity_size + 1)
    if backend.identity == NULL:
        free(backend)
        return NULL
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
    # One reference less; the last one frees the row.
    cdef Backend** link
    backend.references -= 1
    if backend.references > 0:
        return
    link = &table.chains[backend.identity_hash & (table.n_chains - 1)]
    while link[0] != backend:
        link = &link[0].next
    link[0] = backend.next
    table.count -= 1
    free_row(backend)
