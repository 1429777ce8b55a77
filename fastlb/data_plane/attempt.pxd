from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Attempt, Engine, Exchange

cdef uint32_t start_attempt(Engine* engine, Exchange* exchange) noexcept nogil
cdef void end_attempt(Engine* engine, Exchange* exchange, bint reuse) noexcept nogil
cdef void note_answer(Engine* engine, Attempt* attempt, uint32_t status) noexcept nogil
cdef void note_good(Attempt* attempt) noexcept nogil
cdef void blame_backend(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef uint32_t connect_failure(int error) noexcept nogil
