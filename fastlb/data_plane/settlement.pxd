from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.types cimport SharedTable

cdef struct Settlement:
    bint settled                    # False: a worker stood in the middle of an operation; to be tried again
    uint64_t exchanges_lost         # that the dead worker had open; once settled
    uint32_t rows                   # on which it left something

cdef bint read_row(SharedTable* table, uint32_t number, int64_t* in_flight, int64_t* expected) noexcept nogil
cdef Settlement settle_worker(SharedTable* table, uint32_t slot) noexcept nogil
cdef bint settle_rows(SharedTable* table) noexcept nogil
