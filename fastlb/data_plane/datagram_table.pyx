"""The sessions at one UDP socket: by the client's address, and in the order in which anything was last heard of them.

Chains of a hash that is keyed anew for each table: whoever forges addresses cannot choose a chain. The array of chains grows with the
sessions and never shrinks; where there is no memory for a larger one, chains get longer. How many sessions there may be, its caller says.
Sessions are allocated and freed by datagram_session.pyx; here they are linked.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.system cimport getrandom
from fastlb.data_plane.types cimport DATAGRAMS_PER_BATCH, MAX_DATAGRAM_SESSIONS, DatagramSession, DatagramTable

cdef enum:
    FIRST_CHAINS = 64               # a power of two


cdef DatagramTable* datagram_table_open() noexcept nogil:
    # An empty one, for no socket. NULL: out of memory.
    cdef DatagramTable* table = <DatagramTable*>calloc(1, sizeof(DatagramTable))
    if table == NULL:
        return NULL
    table.fd = -1
    table.n_chains = FIRST_CHAINS
    table.per_turn = DATAGRAMS_PER_BATCH
    table.chains = <DatagramSession**>calloc(FIRST_CHAINS, sizeof(DatagramSession*))
    if table.chains == NULL or getrandom(table.seed, sizeof(table.seed), 0) != <ssize_t>sizeof(table.seed):
        datagram_table_close(table)
        return NULL
    return table


cdef void datagram_table_close(DatagramTable* table) noexcept nogil:
    # One without sessions.
    free(table.chains)
    free(table)


cdef void grow(DatagramTable* table) noexcept nogil:
    # Twice as many chains, if they can be had.
    cdef:
        uint32_t n_chains = 2 * table.n_chains, i
        DatagramSession** chains = <DatagramSession**>calloc(n_chains, sizeof(DatagramSession*))
        DatagramSession* session
        DatagramSession* following
        DatagramSession** chain
    if chains == NULL:
        return
    for i in range(table.n_chains):
        session = table.chains[i]
        while session != NULL:
            following = session.next
            chain = &chains[session.hash & (n_chains - 1)]
            session.next = chain[0]
            chain[0] = session
            session = following
    free(table.chains)
    table.chains = chains
    table.n_chains = n_chains


cdef void add_session(DatagramTable* table, DatagramSession* session) noexcept nogil:
    # Of one whose key and hash are set, and which is not in it.
    cdef DatagramSession** chain
    if table.count >= table.n_chains and table.n_chains < <uint32_t>MAX_DATAGRAM_SESSIONS:
        grow(table)
    chain = &table.chains[session.hash & (table.n_chains - 1)]
    session.next = chain[0]
    chain[0] = session
    table.count += 1
    put_newest(table, session)


cdef void remove_session(DatagramTable* table, DatagramSession* session) noexcept nogil:
    cdef DatagramSession** link = &table.chains[session.hash & (table.n_chains - 1)]
    while link[0] != session:
        link = &link[0].next
    link[0] = session.next
    table.count -= 1
    leave_order(table, session)
