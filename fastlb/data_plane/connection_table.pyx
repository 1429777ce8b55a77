"""Index -> connection, in slabs of 256 that never move.

A handle given to the kernel carries index and generation: an event for an earlier use of a slot is ignored. A connection
closed inside a batch waits in the graveyard until the batch ends, so that no caller up the stack holds a recycled one.
State: Engine.connections. Only the pump's thread touches it.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.system cimport memset
from fastlb.data_plane.types cimport KIND_FREE, STATE_CLOSED, Connection, ConnectionTable

cdef enum:
    SLAB = 256


cdef int connection_table_open(ConnectionTable* table, uint32_t max_connections) noexcept nogil:
    # Room for `max_connections` descriptors of all kinds; only the array of slabs is allocated now.
    memset(table, 0, sizeof(ConnectionTable))
    table.max_open = max_connections
    table.max_slabs = (max_connections + SLAB - 1) // SLAB
    table.slabs = <Connection**>calloc(table.max_slabs, sizeof(Connection*))
    return 0 if table.slabs != NULL else -1


cdef void connection_table_close(ConnectionTable* table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.n_slabs):
        free(table.slabs[i])
    free(table.slabs)
    table.slabs = NULL
    table.n_slabs = 0
    table.free = table.graveyard = NULL


cdef bint add_slab(ConnectionTable* table) noexcept nogil:
    cdef:
        uint32_t i, first = table.n_slabs * SLAB
        Connection* slab
    if table.n_slabs == table.max_slabs:
        return False
    slab = <Connection*>calloc(SLAB, sizeof(Connection))
    if slab == NULL:
        return False
    table.slabs[table.n_slabs] = slab
    table.n_slabs += 1
    for i in range(SLAB):
        slab[SLAB - 1 - i].index = first + SLAB - 1 - i
        slab[SLAB - 1 - i].fd = -1
        slab[SLAB - 1 - i].cache_next = table.free
        table.free = &slab[SLAB - 1 - i]
    return True


cdef Connection* open_connection(ConnectionTable* table, int fd, uint32_t kind) noexcept nogil:
    # A zeroed connection owning `fd`; NULL when the table or memory is full (the caller closes the fd).
    cdef:
        Connection* connection
        uint32_t index, generation
    if table.n_open >= table.max_open or (table.free == NULL and not add_slab(table)):
        return NULL
    connection = table.free
    table.free = connection.cache_next
    index = connection.index
    generation = connection.generation
    memset(connection, 0, sizeof(Connection))
    connection.index = index
    connection.generation = generation + 1
    connection.fd = fd
    connection.kind = <unsigned char>kind
    table.n_open += 1
    return connection


cdef void bury_connection(ConnectionTable* table, Connection* connection) noexcept nogil:
    # The descriptor is closed and nothing is owned any more; the slot is used again after the batch.
    connection.state = STATE_CLOSED
    connection.kind = KIND_FREE
    connection.fd = -1
    connection.cache_next = table.graveyard
    table.graveyard = connection
    table.n_open -= 1


cdef void empty_graveyard(ConnectionTable* table) noexcept nogil:
    cdef Connection* connection
    while table.graveyard != NULL:
        connection = table.graveyard
        table.graveyard = connection.cache_next
        connection.cache_next = table.free
        table.free = connection
