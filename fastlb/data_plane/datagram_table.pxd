from libc.stdint cimport uint64_t

from fastlb.data_plane.siphash cimport siphash
from fastlb.data_plane.system cimport memcmp
from fastlb.data_plane.types cimport DatagramKey, DatagramSession, DatagramTable

cdef DatagramTable* datagram_table_open() noexcept nogil
cdef void datagram_table_close(DatagramTable* table) noexcept nogil
cdef void add_session(DatagramTable* table, DatagramSession* session) noexcept nogil
cdef void remove_session(DatagramTable* table, DatagramSession* session) noexcept nogil


cdef inline uint64_t hash_key(const DatagramTable* table, const DatagramKey* key) noexcept nogil:
    return siphash(table.seed[0], table.seed[1], <const char*>key, sizeof(DatagramKey))


cdef inline DatagramSession* find_session(const DatagramTable* table, const DatagramKey* key, uint64_t hash) noexcept nogil:
    # NULL: there is none.
    cdef DatagramSession* session = table.chains[hash & (table.n_chains - 1)]
    while session != NULL:
        if session.hash == hash and memcmp(&session.key, key, sizeof(DatagramKey)) == 0:
            return session
        session = session.next
    return NULL


cdef inline void put_newest(DatagramTable* table, DatagramSession* session) noexcept nogil:
    # Of one that is in no list.
    session.newer = NULL
    session.older = table.newest
    if table.newest != NULL:
        table.newest.newer = session
    else:
        table.oldest = session
    table.newest = session


cdef inline void leave_order(DatagramTable* table, DatagramSession* session) noexcept nogil:
    if session.newer != NULL:
        session.newer.older = session.older
    else:
        table.newest = session.older
    if session.older != NULL:
        session.older.newer = session.newer
    else:
        table.oldest = session.newer


cdef inline void refresh_session(DatagramTable* table, DatagramSession* session) noexcept nogil:
    # Something was heard of it: of all sessions it is the last that would have to go.
    if table.newest != session:
        leave_order(table, session)
        put_newest(table, session)
