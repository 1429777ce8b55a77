from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastlb.data_plane.system cimport sockaddr_storage
from fastlb.data_plane.types cimport Connection, Engine, ImageSocket, Relay, Transport

cdef const Transport* plain_transport() noexcept nogil
cdef bint watch(Engine* engine, Connection* connection) noexcept nogil
cdef bint watch_input(Engine* engine, Connection* connection) noexcept nogil
cdef bint watch_listener(Engine* engine, Connection* connection) noexcept nogil
cdef void unwatch(Engine* engine, Connection* connection) noexcept nogil
cdef ssize_t peek(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil
cdef void note_peer(Connection* connection, const sockaddr_storage* address) noexcept nogil
cdef uint32_t write_address(const uint8_t* ip, char* text) noexcept nogil
cdef int accept_client(Engine* engine, Connection* listener, Connection** accepted) noexcept nogil
cdef int start_connect(Engine* engine, const char* address, uint32_t address_size, int kind, const ImageSocket* options, const Connection* client,
                       int* fd) noexcept nogil
cdef ssize_t send_last(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil
cdef ssize_t send_first(Engine* engine, Connection* connection, const char* data, size_t size, bint more) noexcept nogil
cdef bint local_address(int fd, uint8_t* ip, uint16_t* port) noexcept nogil
cdef bint is_datagram_socket(int fd) noexcept nogil
cdef bint check_socket(const ImageSocket* options) noexcept nogil
cdef int connect_result(Connection* connection) noexcept nogil
cdef bint still_open(Connection* connection) noexcept nogil
cdef void close_descriptor(Connection* connection, bint reset) noexcept nogil
cdef ssize_t splice_in(Engine* engine, Connection* source, int pipe_fd, size_t size) noexcept nogil
cdef ssize_t splice_out(Engine* engine, Connection* sink, int pipe_fd, size_t size, bint more) noexcept nogil
cdef int open_pipe(int* read_fd, int* write_fd) noexcept nogil
