from libc.stdint cimport int32_t, uint32_t

from fastlb.data_plane.route_table cimport RegexSet
from fastlb.data_plane.tls cimport TlsSet
from fastlb.data_plane.types cimport Engine, SharedTable, Socket

cdef int engine_open(Engine* engine, uint32_t max_clients, uint32_t max_descriptors, int32_t pipes, SharedTable* shared, uint32_t slot,
                     int event_fd) noexcept nogil
cdef void engine_close(Engine* engine) noexcept nogil
cdef void engine_publish(Engine* engine) noexcept nogil
cdef uint32_t engine_pump(Engine* engine, uint32_t budget) noexcept nogil
cdef int engine_prepare(Engine* engine, const char* image, size_t size, RegexSet* compiled, TlsSet* tls) noexcept nogil
cdef void engine_abort(Engine* engine) noexcept nogil
cdef int engine_commit(Engine* engine, const Socket* sockets, uint32_t n_sockets, int* removed, uint32_t* n_removed) noexcept nogil
cdef int engine_assign(Engine* engine, const Socket* sockets, uint32_t n_sockets, int* removed, uint32_t* n_removed) noexcept nogil
cdef void engine_end_idle(Engine* engine) noexcept nogil
cdef void engine_drain(Engine* engine, uint32_t idle_grace_ms, int* removed, uint32_t* n_removed) noexcept nogil
cdef uint32_t engine_cut(Engine* engine, uint32_t row) noexcept nogil
