from libc.stdint cimport uint32_t

from fastlb.data_plane.system cimport EAGAIN, ENOBUFS, ENOMEM
from fastlb.data_plane.types cimport Connection, DatagramTable, DatagramBatch, Engine, DatagramSession, Listener

cdef extern from "<errno.h>" nogil:
    int EMSGSIZE, EPERM

cdef int open_datagrams(Engine* engine, Listener* listener) noexcept nogil
cdef void close_datagrams(Engine* engine, Listener* listener) noexcept nogil
cdef void close_datagram_scratch(Engine* engine) noexcept nogil
cdef void take_datagrams(Engine* engine, Listener* listener) noexcept nogil
cdef void leave_socket(Engine* engine, Listener* listener) noexcept nogil
cdef int send_asked(Engine* engine, int fd, uint32_t first, uint32_t n, uint32_t* n_sent) noexcept nogil
cdef int take_answers(Engine* engine, const DatagramTable* table, const DatagramSession* session, Connection* backend, uint32_t* n,
                      uint32_t* size, bint* more) noexcept nogil
cdef void send_answers(Engine* engine) noexcept nogil
cdef uint32_t count_all(const DatagramBatch* batch, uint32_t first, uint32_t n) noexcept nogil


cdef inline bint is_passing(int error) noexcept nogil:
    # Whether the errno of a connected socket concerns a datagram or a moment, and not whoever is at the other end.
    return error == EAGAIN or error == ENOBUFS or error == ENOMEM or error == EMSGSIZE or error == EPERM
