from libc.stdint cimport uint32_t

from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport X_SESSION, Attempt, Codec, Connection, Engine, Exchange

cdef uint32_t start_attempt(Engine* engine, Exchange* exchange) noexcept nogil
cdef Attempt* blank_attempt(Engine* engine) noexcept nogil
cdef void put_attempt_back(Engine* engine, Attempt* attempt) noexcept nogil
cdef void end_attempt(Engine* engine, Exchange* exchange, bint reuse) noexcept nogil
cdef void cut_attempt(Engine* engine, Exchange* exchange) noexcept nogil
cdef void note_answer(Engine* engine, Attempt* attempt, uint32_t status) noexcept nogil
cdef void note_good(Attempt* attempt) noexcept nogil
cdef void blame_backend(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef uint32_t connect_backend(Engine* engine, Exchange* exchange, Attempt* attempt, Connection** made) noexcept nogil
cdef uint32_t connect_failure(int error) noexcept nogil


cdef inline const Codec* backend_codec_of(const Engine* engine, const Exchange* exchange) noexcept nogil:
    # What is spoken on the connections that are made for this exchange.
    if unlikely(exchange.flags & X_SESSION):
        return engine.session_backend_codec if exchange.client.fd >= 0 else engine.datagram_backend_codec
    return engine.backend_codec
