from libc.stdint cimport uint32_t

from fastlb.data_plane.queue cimport note_release
from fastlb.data_plane.shared_table cimport claim_row, release_row
from fastlb.data_plane.types cimport Backend, BackendTable, Engine, Queue, SharedTable

cdef int backend_table_open(BackendTable* table, SharedTable* shared, uint32_t slot) noexcept nogil
cdef void backend_table_close(BackendTable* table) noexcept nogil
cdef Backend* hold_backend(BackendTable* table, const char* identity, uint32_t identity_size, int* error) noexcept nogil
cdef void drop_backend(BackendTable* table, Backend* backend) noexcept nogil
cdef Queue* hold_queue(BackendTable* table, const char* identity, uint32_t identity_size, int* error) noexcept nogil
cdef void set_queue(BackendTable* table, Backend* backend, const Queue* queue) noexcept nogil


cdef inline bint claim(Engine* engine, Backend* backend, uint32_t max_in_flight) noexcept nogil:
    # Assigns one exchange to a backend, in the sight of all workers; False at its cap.
    if not claim_row(engine.shared, engine.worker, backend.shared, backend.column, backend.number, max_in_flight):
        return False
    engine.counters.claims_taken += 1
    return True


cdef inline void release_claim(Engine* engine, Backend* backend) noexcept nogil:
    release_row(engine.shared, engine.worker, backend.shared, backend.column, backend.number)
    engine.counters.claims_returned += 1
    note_release(engine, backend)


cdef inline void note_idle(Backend* backend) noexcept nogil:
    # After each change of its idle cache: shown to other processes.
    backend.column.idle = backend.idle.count
