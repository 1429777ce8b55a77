from libc.stdint cimport uint32_t

from fastlb.data_plane.backend_table cimport drop_backend
from fastlb.data_plane.shared_table cimport claim_row, release_row
from fastlb.data_plane.system cimport exchange_word_if, load_now, store_word
from fastlb.data_plane.types cimport MAX_WORKERS, Attempt, Backend, Connection, Engine, Exchange, IdleCache, LimitKind, Pool

cdef enum:
    MOST_WANTED = 64                # beyond that they are refused faster than connections come free

cdef uint32_t take_connection_places(Engine* engine, Pool* pool, Attempt* attempt, Backend** connection_place) noexcept nogil
cdef bint take_retry_place(Engine* engine, Exchange* exchange) noexcept nogil
cdef void give_retry_place_back(Engine* engine, Exchange* exchange) noexcept nogil


cdef inline bint take_place(Engine* engine, Pool* pool, LimitKind kind, Backend** place) noexcept nogil:
    # One more of this kind. True, with *place the row that it is counted in, where the pool limits these; False: the limit is reached.
    cdef Backend* row = pool.limits[<int>kind]
    if row == NULL:
        return True
    if not claim_row(engine.shared, engine.worker, row.shared, row.column, row.number, pool.image.limits[<int>kind].most):
        return False
    row.references += 1
    place[0] = row
    return True


cdef inline void list_idle(Connection* connection) noexcept nogil:
    # Of one with a place that has just become idle: the newest one of its limit. The row of a limit has no connections of its own, so its idle
    # cache is this list, through other links than those of the backend's.
    cdef IdleCache* idle = &connection.place.idle
    connection.all_previous = NULL
    connection.all_next = idle.newest
    if idle.newest != NULL:
        idle.newest.all_previous = connection
    else:
        idle.oldest = connection
    idle.newest = connection


cdef inline void unlist_idle(Connection* connection) noexcept nogil:
    # Of one with a place that is idle no more.
    cdef IdleCache* idle = &connection.place.idle
    if connection.all_previous != NULL:
        connection.all_previous.all_next = connection.all_next
    else:
        idle.newest = connection.all_next
    if connection.all_next != NULL:
        connection.all_next.all_previous = connection.all_previous
    else:
        idle.oldest = connection.all_previous
    connection.all_next = connection.all_previous = NULL


cdef inline bint take_wanted(Backend* place) noexcept nogil:
    # Whether this place, of a connection that ends or could be kept idle, is given back for one that was refused.
    cdef uint32_t wanted = load_now(&place.shared.wanted)
    if wanted > MOST_WANTED + MAX_WORKERS:      # written by nobody of ours
        store_word(&place.shared.wanted, 0)
        return False
    while wanted != 0:
        if exchange_word_if(&place.shared.wanted, &wanted, wanted - 1):
            return True
    return False


cdef inline void give_place_back(Engine* engine, Backend** place) noexcept nogil:
    # Safe where none was taken.
    cdef Backend* row = place[0]
    if row == NULL:
        return
    place[0] = NULL
    release_row(engine.shared, engine.worker, row.shared, row.column, row.number)
    drop_backend(&engine.backends, row)
