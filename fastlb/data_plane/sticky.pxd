from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport memcpy
from fastlb.data_plane.types cimport Engine, Exchange, Head, ImagePool, Pool, PoolBackend
from fastlb.data_plane.writer cimport Writer

cdef bint check_sticky(const char* image, size_t size, const ImagePool* pool) noexcept nogil
cdef bint load_sticky(const char* image, Pool* pool) noexcept nogil
cdef void begin_sticky(Engine* engine, Exchange* exchange, Head* head) noexcept nogil
cdef bint is_bound(const Exchange* exchange) noexcept nogil
cdef bint can_return(const PoolBackend* backend) noexcept nogil
cdef int32_t pick_sticky(const Exchange* exchange, uint32_t* failure) noexcept nogil
cdef void note_sticky_answer(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil
cdef void put_sticky_cookie(Engine* engine, const Exchange* exchange, Writer* out) noexcept nogil


cdef inline uint32_t hash_sticky_value(const char* value) noexcept nogil:
    # Of the STICKY_VALUE_BYTES of a cookie's value: what is in the table is a keyed hash already, so its first bytes, spread, are enough.
    cdef uint64_t first
    memcpy(&first, value, 8)
    return <uint32_t>(first * <uint64_t>0x9E3779B97F4A7C15 >> 32)
