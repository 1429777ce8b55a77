"""Blank exchanges: the engine's free list, which exchange.pyx fills again when a batch ends."""
from libc.stdlib cimport malloc

from fastlb.data_plane.system cimport likely, memset
from fastlb.data_plane.types cimport NO_PIPE, Engine, Exchange


cdef inline Exchange* blank_exchange(Engine* engine) noexcept nogil:
    # Zeroed: its next owner's, until put_exchange_back. NULL: out of memory.
    cdef Exchange* exchange = engine.free_exchanges
    if likely(exchange != NULL):
        engine.free_exchanges = exchange.next
        engine.n_free_exchanges -= 1
    else:
        exchange = <Exchange*>malloc(sizeof(Exchange))
        if exchange == NULL:
            return NULL
    memset(exchange, 0, sizeof(Exchange))
    exchange.up.pipe = exchange.down.pipe = NO_PIPE
    return exchange


cdef inline Exchange* take_exchange(Engine* engine) noexcept nogil:
    # The same, counted as open until close_exchange.
    cdef Exchange* exchange = blank_exchange(engine)
    if likely(exchange != NULL):
        engine.counters.exchanges_opened += 1
    return exchange


cdef inline void put_exchange_back(Engine* engine, Exchange* exchange) noexcept nogil:
    # Free when the batch ends, when no caller up the stack can still look at it.
    exchange.next = engine.exchange_graveyard
    if engine.exchange_graveyard == NULL:
        engine.last_ended_exchange = exchange
    engine.exchange_graveyard = exchange
    engine.n_ended_exchanges += 1
