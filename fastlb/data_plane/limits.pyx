"""Limits of a pool, its circuit breaker: how many connections, pending attempts, attempts and retries it may have at a time, over all workers.

Each limit is a row of shared memory, found by the pool's name as its queue's is; its `in_flight` counts. A place is claimed and released as a
backend is, so a limit holds at every instant, survives reloads, and settlement gives back the places of a dead worker. Whoever has a place holds
the row that it was taken in: a connection (Connection.place), an attempt (request_place, pending_place) or an exchange (retry_place). So places
find their way back when the limit was changed, or is gone, by then.

Idle connections have places too. Those of this worker stand in a list of their limit's row, whatever backend they lead to: the one that has been
idle longest is closed for a new one. A worker cannot close those of another: a refusal leaves word in the limit's row (SharedRow.wanted), and the
next connection that would be kept idle, in any worker, is closed for it. One for one, so that overload does not end all keep-alive: a connection
that ends for another reason has made the room as well.

What is beyond a limit is refused at once, with a reason of its own; a queue is for full backends, not for this. A retry that is beyond its limit
is not made, and the client gets what came of the attempt before. Attempts of pools without limits pass one test of Attempt.watched.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.connection cimport close_connection
from fastlb.data_plane.failure cimport FAILURE_CONNECTIONS_LIMIT, FAILURE_PENDING_LIMIT
from fastlb.data_plane.system cimport add_word, load_now
from fastlb.data_plane.types cimport (LIMIT_CONNECTIONS, LIMIT_PENDING, LIMIT_RETRIES, POOL_LIMITS, X_RETRY_PLACE, Attempt, Backend, Connection,
                                      Engine, Exchange, Pool)


cdef bint take_from_idle(Engine* engine, Pool* pool, Backend** place) noexcept nogil:
    # A place that an idle connection of this worker has had, the one that has been idle longest. False: none is left. Where the limit was
    # lowered, or a sibling was quicker, it takes more than one of them.
    cdef Connection* oldest = pool.limits[<int>LIMIT_CONNECTIONS].idle.oldest
    while oldest != NULL:
        unlist_idle(oldest)
        give_place_back(engine, &oldest.place)  # here, so that it does not count for another worker's refusal
        close_connection(engine, oldest, False)
        if take_place(engine, pool, LIMIT_CONNECTIONS, place):
            return True
        oldest = pool.limits[<int>LIMIT_CONNECTIONS].idle.oldest
    return False


cdef uint32_t take_connection_places(Engine* engine, Pool* pool, Attempt* attempt, Backend** connection_place) noexcept nogil:
    # For a connection that an attempt is about to open. 0, or a FAILURE_* with no place taken.
    if not take_place(engine, pool, LIMIT_PENDING, &attempt.pending_place):
        return FAILURE_PENDING_LIMIT
    if take_place(engine, pool, LIMIT_CONNECTIONS, connection_place):
        return 0
    if take_from_idle(engine, pool, connection_place):
        return 0
    give_place_back(engine, &attempt.pending_place)
    if load_now(&pool.limits[<int>LIMIT_CONNECTIONS].shared.wanted) < MOST_WANTED:
        add_word(&pool.limits[<int>LIMIT_CONNECTIONS].shared.wanted, 1)
    return FAILURE_CONNECTIONS_LIMIT


cdef bint take_retry_place(Engine* engine, Exchange* exchange) noexcept nogil:
    # Before an exchange gets another attempt; it keeps the place until none can follow. False: as many as may be are tried again now.
    if not exchange.pool.flags & POOL_LIMITS or exchange.flags & X_RETRY_PLACE:
        return True
    if not take_place(engine, exchange.pool, LIMIT_RETRIES, &exchange.retry_place):
        engine.counters.retries_refused += 1
        return False
    if exchange.retry_place != NULL:
        exchange.flags |= X_RETRY_PLACE
    return True


cdef void give_retry_place_back(Engine* engine, Exchange* exchange) noexcept nogil:
    exchange.flags &= ~<uint32_t>X_RETRY_PLACE
    give_place_back(engine, &exchange.retry_place)
