"""Memory for OpenSSL, which takes and returns 730 blocks in a handshake: what comes back is kept and given out again.

State: for each size a list of blocks that nobody uses. They belong to the thread that has imported this module, which in a worker is the one that
pumps; no other thread touches them, so there are no locks. Every block is one of malloc's: any thread may return what any other has taken, and
other threads take and return theirs with malloc and free.

Bounded: of each size MAX_KEPT_BYTES are kept at most, and the rest goes back to malloc. What OpenSSL wants wiped it wipes itself before it
returns it, as with malloc. A block that is returned twice or whose head is overwritten ends the process, as it does with glibc.
"""
from libc.stdint cimport SIZE_MAX, uint8_t, uint32_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcpy

from fastlb.data_plane.meters cimport highest_bit
from fastlb.data_plane.system cimport likely, unlikely

cdef extern from *:
    """
    #include <pthread.h>
    #ifndef __has_builtin
    #define __has_builtin(name) 0
    #endif
    #if __has_builtin(__builtin_thread_pointer)
    static inline unsigned long fastlb_this_thread(void) { return (unsigned long)__builtin_thread_pointer(); }
    #else
    static inline unsigned long fastlb_this_thread(void) { return (unsigned long)pthread_self(); }
    #endif
    """
    unsigned long this_thread "fastlb_this_thread"() nogil      # a register where the compiler knows it; else a call

cdef enum:
    SMALL_BYTES = 128               # up to here sizes are 16 apart, above there are four to each doubling
    SMALL_SIZES = 8
    SMALL_BIT = 7
    TABLE_BYTES = 2048              # up to here a table knows
    TABLE_SIZES = 128
    LARGEST_BYTES = 32768           # a record's buffers take 17 KB and a handshake's messages 21 KB
    N_SIZES = 40
    NOT_KEPT = 40                   # in place of a size: larger than all
    MAX_KEPT_BYTES = 65536          # three buffers of records: a connection whose hands are being shaken has two
    IN_USE = 0x7573656B             # Block.mark
    KEPT = 0x6B657074

cdef struct Block:
    uint32_t size                   # its index in SIZES, or NOT_KEPT
    uint32_t mark
    size_t n_bytes                  # behind this head, aligned as malloc's
    Block* next                     # while it is kept, where its user's bytes were

cdef enum:
    HEAD_BYTES = 16

cdef struct Size:
    Block* kept                     # owned
    uint32_t n_kept, max_kept
    size_t n_bytes

cdef Size SIZES[N_SIZES]
cdef uint8_t TABLE[TABLE_SIZES]
cdef unsigned long OWNER


cdef inline uint32_t find_size(size_t size) noexcept nogil:
    # The smallest that has room for 1 to LARGEST_BYTES.
    cdef uint32_t bit
    if size <= SMALL_BYTES:
        return <uint32_t>((size - 1) >> 4)
    bit = highest_bit(size - 1)
    return SMALL_SIZES + ((bit - SMALL_BIT) << 2) + (<uint32_t>((size - 1) >> (bit - 2)) & 3)


cdef inline uint32_t size_of(size_t size) noexcept nogil:
    # As find_size, with nothing to guess for the processor.
    return TABLE[(size - 1) >> 4] if likely(size <= TABLE_BYTES) else find_size(size)


cdef inline Block* block_of(void* memory) noexcept nogil:
    return <Block*>(<char*>memory - HEAD_BYTES)


cdef void* take_memory(size_t size, const char* file, int line) noexcept nogil:
    # NULL: out of memory, or nothing was asked for.
    cdef:
        uint32_t index
        Block* block
    if unlikely(size - 1 >= <size_t>LARGEST_BYTES):
        if size == 0 or size > SIZE_MAX - HEAD_BYTES:
            return NULL
        index = NOT_KEPT
    else:
        index = size_of(size)
        size = SIZES[index].n_bytes
        if likely(this_thread() == OWNER and SIZES[index].kept != NULL):
            block = SIZES[index].kept
            if unlikely(block.mark != <uint32_t>KEPT):
                abort()
            SIZES[index].kept = block.next
            SIZES[index].n_kept -= 1
            block.mark = IN_USE
            return <char*>block + HEAD_BYTES
    block = <Block*>malloc(size + HEAD_BYTES)
    if block == NULL:
        return NULL
    block.size = index
    block.mark = IN_USE
    block.n_bytes = size
    return <char*>block + HEAD_BYTES


cdef void return_memory(void* memory, const char* file, int line) noexcept nogil:
    cdef:
        Block* block
        Size* size
    if memory == NULL:
        return
    block = block_of(memory)
    if unlikely(block.mark != <uint32_t>IN_USE):
        abort()
    block.mark = KEPT
    if likely(block.size < <uint32_t>NOT_KEPT and this_thread() == OWNER):
        size = &SIZES[block.size]
        if likely(size.n_kept < size.max_kept):
            block.next = size.kept
            size.kept = block
            size.n_kept += 1
            return
    free(block)


cdef void* resize_memory(void* memory, size_t size, const char* file, int line) noexcept nogil:
    # As realloc; what shrinks stays where it is.
    cdef void* larger
    if memory == NULL:
        return take_memory(size, file, line)
    if size == 0:
        return_memory(memory, file, line)
        return NULL
    if size <= block_of(memory).n_bytes:
        return memory
    larger = take_memory(size, file, line)
    if larger != NULL:
        memcpy(larger, memory, block_of(memory).n_bytes)
        return_memory(memory, file, line)
    return larger


cdef uint32_t count_kept(size_t size) noexcept nogil:
    # How many blocks of this size are kept.
    return SIZES[size_of(size)].n_kept


cdef void _make_sizes() noexcept:  # with the GIL: runs once, at import
    global OWNER
    cdef uint32_t i, bit
    for i in range(N_SIZES):
        bit = SMALL_BIT + ((i - SMALL_SIZES) >> 2)
        SIZES[i].n_bytes = (i + 1) << 4 if i < <uint32_t>SMALL_SIZES else (1 << bit) + ((((i - SMALL_SIZES) & 3) + 1) << (bit - 2))
        SIZES[i].max_kept = <uint32_t>(MAX_KEPT_BYTES // SIZES[i].n_bytes)
    for i in range(TABLE_SIZES):
        TABLE[i] = <uint8_t>find_size((i + 1) << 4)
    OWNER = this_thread()


_make_sizes()
