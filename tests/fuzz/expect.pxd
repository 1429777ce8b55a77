"""What a fuzz target checks beyond the sanitizers: a broken promise ends the process, which libFuzzer reports with its input."""
from libc.stdio cimport fprintf, stderr
from libc.stdint cimport uint8_t
from libc.stdlib cimport abort, malloc
from libc.string cimport memcpy


cdef inline void expect(bint held, const char* promise) noexcept nogil:
    if not held:
        fprintf(stderr, b"fastlb fuzz: broken promise: %s\n", promise)
        abort()


cdef inline char* exact_copy(const uint8_t* data, size_t size) noexcept nogil:
    # Owned by the caller. Ends where the allocation ends, so that the address sanitizer sees a read of one byte more.
    cdef char* copy = <char*>malloc(size if size else 1)
    expect(copy != NULL, b"malloc")
    memcpy(copy, data, size)
    return copy
