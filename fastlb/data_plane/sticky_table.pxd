from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.types cimport SharedTable

cdef enum:
    STICKY_TICK_MS = 2000           # of a record's expiry
    MAX_STICKY_TICKS = 1296000      # 30 days

# Where one pool keeps its records: some buckets of the node's, which it shares with whoever else's these are.
cdef struct StickyPart:
    uint32_t first                  # bucket
    uint32_t mask                   # a power of two of them, less one; those past the last bucket are the first again

ctypedef enum StickyNoted:
    NOTED_ALREADY = 0               # nothing had to be written
    NOTED_AGAIN = 1                 # a record was there
    NOTED_NEW = 2
    NOTED_INSTEAD = 3               # ... and one that had not expired had to go for it
    NOTED_NOT = 4                   # others were writing to this bucket all the time

cdef uint32_t find_sticky(const SharedTable* table, StickyPart part, uint64_t hash, uint64_t now_ms) noexcept nogil
cdef StickyNoted note_sticky(const SharedTable* table, StickyPart part, uint64_t hash, uint32_t row, uint32_t ticks,
                             uint64_t now_ms) noexcept nogil
cdef int64_t count_sticky(const SharedTable* table, uint64_t now_ms) noexcept nogil
