from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastlb.data_plane.types cimport ImageAlias, ImageRingPoint

cdef enum:
    POINTS_PER_WEIGHT = 160         # nginx's and ketama's
    MOST_POINTS = 4194304           # 32 MiB of ring; beyond that a weight gets fewer, and the ring is no longer nginx's
    MAGLEV_SLOTS_PER_WEIGHT = 100   # the paper's: shares differ by 1 % at most

cdef struct TableBackend:           # one backend of a group, as tables are built of it
    const char* name                # borrowed: what is hashed to find its places
    uint32_t name_size
    uint32_t weight

cdef uint32_t count_ring_points(const TableBackend* backends, uint32_t n) noexcept nogil
cdef uint32_t build_ring(const TableBackend* backends, uint32_t n, ImageRingPoint* points) noexcept nogil
cdef uint32_t count_index_bits(uint32_t n_points) noexcept nogil
cdef void build_ring_index(const ImageRingPoint* points, uint32_t n_points, uint32_t bits, uint32_t* index) noexcept nogil
cdef uint32_t count_maglev_slots(const TableBackend* backends, uint32_t n) noexcept nogil
cdef int build_maglev(const TableBackend* backends, uint32_t n, uint32_t n_slots, uint16_t* slots) noexcept nogil
cdef int fill_maglev(const uint32_t* offsets, const uint32_t* skips, const uint32_t* weights, uint32_t n, uint32_t n_slots,
                     uint16_t* slots) noexcept nogil
cdef int build_aliases(const TableBackend* backends, uint32_t n, ImageAlias* aliases) noexcept nogil
