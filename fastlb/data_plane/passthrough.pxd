from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Connection, Engine, Exchange

cdef enum:
    HELLO_WAITS = 0                 # results of read_hello and read_agreement, beside -FAILURE_*
    HELLO_ROUTED = 1
    HELLO_LEFT = 2                  # it ended before it had said anything

cdef int read_hello(Engine* engine, Connection* client, uint32_t* route) noexcept nogil
cdef int read_agreement(Engine* engine, Connection* client, uint32_t* route) noexcept nogil
cdef void refuse_name(Engine* engine, Connection* client) noexcept nogil
cdef void log_hello(Engine* engine, Exchange* exchange) noexcept nogil
