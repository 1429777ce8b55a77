from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.types cimport LogWriter

cdef enum:
    NO_LOG_SLOT = -1

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint32_t fastlb_log_get32(const uint32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline uint64_t fastlb_log_get64(const uint64_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void fastlb_log_put32(uint32_t* at, uint32_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    static inline void fastlb_log_put64(uint64_t* at, uint64_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    static inline int fastlb_log_swap(int* at, int value) { return __atomic_exchange_n(at, value, __ATOMIC_ACQ_REL); }
    static inline void fastlb_log_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    uint32_t get32 "fastlb_log_get32"(const uint32_t* at) nogil
    uint64_t get64 "fastlb_log_get64"(const uint64_t* at) nogil
    void put32 "fastlb_log_put32"(uint32_t* at, uint32_t value) nogil
    void put64 "fastlb_log_put64"(uint64_t* at, uint64_t value) nogil
    int swap "fastlb_log_swap"(int* at, int value) nogil
    void fence "fastlb_log_fence"() nogil

cdef LogWriter* log_writer_open(uint32_t ring_bytes) noexcept nogil
cdef bint log_writer_start(LogWriter* writer) noexcept nogil
cdef void log_writer_close(LogWriter* writer, uint32_t patience_ms, uint64_t* lines_written, uint64_t* lines_lost,
                           uint64_t* bytes_written) noexcept nogil
cdef bint put_line(LogWriter* writer, uint32_t slot, const char* line, uint32_t size) noexcept nogil
cdef void wake_log_writer(LogWriter* writer) noexcept nogil
cdef int hold_slot(LogWriter* writer, const char* identity, uint32_t identity_size, uint32_t kind) noexcept nogil
cdef void drop_slot(LogWriter* writer, uint32_t slot) noexcept nogil
cdef void hand_over(LogWriter* writer, uint32_t slot, int fd) noexcept nogil
cdef bint write_some(LogWriter* writer) noexcept nogil
