"""Blank exchanges: the engine's free list, which exchange.pyx fills again when a batch ends."""
from libc.stdlib cimport malloc

from fastlb.data_plane.system cimport likely, memset
from fastlb.data_plane.types cimport NO_PIPE, Engine, Exchange


cdef inline Exchange* take_exchange(Engine* engine) noexcept nogil:
    # Zeroed, and counted as open: its next owner's, until close_exchange. NULL: out of memory.
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
    engine.counters.exchanges_opened += 1
    return exchange
