from libc.stdint cimport uint32_t

from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport Attempt, Engine, Exchange

cdef bint begin_hedge(Engine* engine, Exchange* exchange) noexcept nogil
cdef void clear_way(Engine* engine, Exchange* exchange) noexcept nogil
cdef void win_race(Engine* engine, Exchange* exchange) noexcept nogil
cdef void lose_race(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef void end_rival(Engine* engine, Exchange* exchange) noexcept nogil


cdef inline void face_attempt(Exchange* exchange, Attempt* attempt) noexcept nogil:
    # An event is about this attempt of the exchange: from here on it is `exchange.attempt`.
    if unlikely(attempt != exchange.attempt):
        exchange.hedge = exchange.attempt
        exchange.attempt = attempt
