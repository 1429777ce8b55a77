from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #if defined(__SANITIZE_ADDRESS__)
    #define FASTLB_WATCHES_MEMORY 1
    #elif defined(__has_feature)
    #if __has_feature(address_sanitizer)
    #define FASTLB_WATCHES_MEMORY 1
    #endif
    #endif
    #ifndef FASTLB_WATCHES_MEMORY
    #define FASTLB_WATCHES_MEMORY 0
    #endif
    """
    bint WATCHES_MEMORY "FASTLB_WATCHES_MEMORY"     # built with a sanitizer, which has to see each block taken and returned

# As malloc, realloc and free, in the shape in which OpenSSL wants them (CRYPTO_set_mem_functions).
cdef void* take_memory(size_t size, const char* file, int line) noexcept nogil
cdef void* resize_memory(void* memory, size_t size, const char* file, int line) noexcept nogil
cdef void return_memory(void* memory, const char* file, int line) noexcept nogil
cdef uint32_t count_kept(size_t size) noexcept nogil
