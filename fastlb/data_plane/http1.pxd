from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Codec, Connection, Engine

cdef const Codec* http1_client_codec() noexcept nogil
cdef const Codec* http1_backend_codec() noexcept nogil
cdef void count_status(Engine* engine, uint32_t status) noexcept nogil
cdef void linger(Engine* engine, Connection* client, uint32_t at_most_ms) noexcept nogil
