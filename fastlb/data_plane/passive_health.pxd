from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.system cimport load_now, store_word
from fastlb.data_plane.types cimport Backend, Engine

cdef void note_failure(Engine* engine, Backend* backend) noexcept nogil
cdef uint64_t return_when_due(Engine* engine, Backend* backend) noexcept nogil
cdef void bring_back(Engine* engine, Backend* backend) noexcept nogil


cdef inline bint is_counted(const Backend* backend, uint32_t condition) noexcept nogil:
    # Whether an attempt that ended so (a RetryOn, RETRY_NO for a good answer) failed, as the backend's pool sees it now.
    return backend.pool != NULL and backend.pool.image.health.counts & condition != 0


cdef inline void note_success(Backend* backend) noexcept nogil:
    # Writes only where there was a failure: the line is the one that picks read.
    if load_now(&backend.shared.failed_in_row) != 0:
        store_word(&backend.shared.failed_in_row, 0)
