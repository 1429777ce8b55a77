from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.types cimport Connection, ConnectionTable, Engine

cdef int connection_table_open(ConnectionTable* table, uint32_t max_connections) noexcept nogil
cdef void connection_table_close(ConnectionTable* table) noexcept nogil
cdef Connection* open_connection(ConnectionTable* table, int fd, uint32_t kind) noexcept nogil
cdef void bury_connection(ConnectionTable* table, Connection* connection) noexcept nogil
cdef void empty_graveyard(ConnectionTable* table) noexcept nogil


cdef inline uint64_t connection_handle(const Connection* connection) noexcept nogil:
    # What the kernel gives back with an event.
    return <uint64_t>connection.generation << 32 | connection.index


cdef inline uint32_t count_slots(const ConnectionTable* table) noexcept nogil:
    return table.n_slabs << 8


cdef inline Connection* connection_at(const ConnectionTable* table, uint32_t index) noexcept nogil:
    # Slot `index`, below count_slots, open (fd >= 0) or not.
    return &table.slabs[index >> 8][index & 255]


cdef inline Connection* find_connection(ConnectionTable* table, uint64_t handle) noexcept nogil:
    # The connection a handle was made for, or NULL when its slot has been closed (and perhaps used again) since.
    cdef:
        uint32_t index = <uint32_t>handle
        Connection* connection
    if (index >> 8) >= table.n_slabs:
        return NULL
    connection = &table.slabs[index >> 8][index & 255]
    if connection.generation != <uint32_t>(handle >> 32) or connection.fd < 0:
        return NULL
    return connection
