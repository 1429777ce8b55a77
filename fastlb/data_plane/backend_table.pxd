from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Backend, BackendTable, Engine, ImageBackend, ImageText

cdef int backend_table_open(BackendTable* table) noexcept nogil
cdef void backend_table_close(BackendTable* table) noexcept nogil
cdef Backend* hold_backend(BackendTable* table, const char* identity, uint32_t identity_size) noexcept nogil
cdef void drop_backend(BackendTable* table, Backend* backend) noexcept nogil


cdef inline bint claim(Engine* engine, Backend* backend, uint32_t max_in_flight) noexcept nogil:
    # Assigns one exchange to a backend; False above its cap. The only place where in_flight grows.
    if max_in_flight != 0 and backend.in_flight >= max_in_flight:
        return False
    backend.in_flight += 1
    backend.n_requests += 1
    engine.counters.claims_taken += 1
    return True


cdef inline void release_claim(Engine* engine, Backend* backend) noexcept nogil:
    # The only place where in_flight falls.
    backend.in_flight -= 1
    engine.counters.claims_returned += 1
