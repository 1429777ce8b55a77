"""The node's table of who belongs where: from the hash of a learned cookie or of a client's address to the row of a backend.

It lies in shared memory (shared_table.pxd), so that all workers see it and one's death takes nothing away, and has a fixed size: 2^20 records in
buckets of eight, a cache line each. A record is one word, read and written at once, so none is ever half of one and half of another:

    26 bits of the hash | 22 bits: when it expires, in ticks of two seconds | 16 bits: the row; 0 = no record

The bucket takes further bits of the hash: another client's record is mistaken for one's own once in 10^7 look-ups of unknown clients, with no worse
end than a pick that was not needed. (The hash is keyed: nobody can choose whose.) Ticks come round after 97 days and records last 30 at most, so
one that nobody touched in between could come back to life after 67; the next write to its bucket ends it before.

Any worker writes anywhere, by compare-and-exchange. A new record takes an empty or expired place, else that of the one that expires
first: a flood of clients shortens the memory of the table and never takes more of it. Two workers that note the same client at once may leave two
records; both find the first, and whoever notes that client next removes the second.

Nothing in here is believed: a row is looked for among those of the pool (sticky.pyx).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.shared_table cimport STICKY_AT, STICKY_BUCKETS
from fastlb.data_plane.system cimport exchange_if

cdef enum:
    PLACES = 8                      # of a bucket: 64 bytes
    TRIES = 4                       # of a write; each failed one means that somebody else has written
    TAG_BITS = 26
    TICK_MASK = 0x3FFFFF            # 22 bits
    ROW_MASK = 0xFFFF

cdef extern from *:
    """
    #define fastlb_load_record(from) __atomic_load_n((from), __ATOMIC_RELAXED)
    """
    int64_t load_record "fastlb_load_record"(const int64_t* source) nogil


cdef inline int64_t* bucket_of(const SharedTable* table, StickyPart part, uint64_t hash) noexcept nogil:
    cdef uint32_t number = (part.first + (<uint32_t>hash & part.mask)) & <uint32_t>(STICKY_BUCKETS - 1)
    return <int64_t*>(table.base + STICKY_AT) + <size_t>number * PLACES


cdef inline uint32_t now_tick(uint64_t now_ms) noexcept nogil:
    return <uint32_t>(now_ms // STICKY_TICK_MS) & <uint32_t>TICK_MASK


cdef inline uint32_t ticks_left(uint64_t record, uint32_t now) noexcept nogil:
    # 0: there is no record, or it has expired.
    cdef uint32_t left = (<uint32_t>(record >> 16) - now) & <uint32_t>TICK_MASK
    return left if record != 0 and left <= MAX_STICKY_TICKS else 0


cdef inline bint has_tag(uint64_t record, uint64_t hash) noexcept nogil:
    return (record ^ hash) >> (64 - TAG_BITS) == 0


cdef uint32_t find_sticky(const SharedTable* table, StickyPart part, uint64_t hash, uint64_t now_ms) noexcept nogil:
    # The row that was noted for this hash; 0 = none. Whatever it says is to be checked.
    cdef:
        const int64_t* bucket = bucket_of(table, part, hash)
        uint64_t record
        uint32_t i
    for i in range(PLACES):
        record = <uint64_t>load_record(&bucket[i])
        if has_tag(record, hash) and ticks_left(record, now_tick(now_ms)):
            return <uint32_t>record & <uint32_t>ROW_MASK
    return 0


cdef StickyNoted note_sticky(const SharedTable* table, StickyPart part, uint64_t hash, uint32_t row, uint32_t ticks,
                             uint64_t now_ms) noexcept nogil:
    # Notes a row (1 to 65535) for this hash, for so many ticks from now (1 to MAX_STICKY_TICKS). A record that says the same and has lost less
    # than an eighth of its time stays as it is, so that a busy client does not keep a cache line moving between processors.
    cdef:
        int64_t* bucket = bucket_of(table, part, hash)
        uint64_t tag = hash >> (64 - TAG_BITS) << (64 - TAG_BITS), record, wanted
        uint32_t now = now_tick(now_ms), i, left, least, place, _try
        int64_t seen
        bint found
    wanted = tag | <uint64_t>((now + ticks) & <uint32_t>TICK_MASK) << 16 | row
    for _try in range(TRIES):
        found = False
        least = 0xFFFFFFFF
        place = 0
        seen = 0
        for i in range(PLACES):
            record = <uint64_t>load_record(&bucket[i])
            left = ticks_left(record, now)
            if left != 0 and has_tag(record, hash):
                if found:
                    exchange_if(&bucket[i], <int64_t*>&record, 0)       # the second of two
                    continue
                found = True
                if <uint32_t>record & <uint32_t>ROW_MASK == row and left <= ticks and ticks - left <= ticks // 8:
                    return NOTED_ALREADY
                place, seen = i, <int64_t>record
            elif not found and left < least:
                least = left
                place, seen = i, <int64_t>record
        if exchange_if(&bucket[place], &seen, <int64_t>wanted):
            if found:
                return NOTED_AGAIN
            return NOTED_INSTEAD if least != 0 else NOTED_NEW
    return NOTED_NOT


cdef int64_t count_sticky(const SharedTable* table, uint64_t now_ms) noexcept nogil:
    # Records that have not expired. Reads the whole table, 8 MiB: for tests and reports.
    cdef:
        const int64_t* places = <const int64_t*>(table.base + STICKY_AT)
        uint32_t i, now = now_tick(now_ms)
        int64_t n = 0
    for i in range(STICKY_BUCKETS * PLACES):
        n += ticks_left(<uint64_t>load_record(&places[i]), now) != 0
    return n
