from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Codec, DatagramKey, Engine, Listener, sockaddr_in6

cdef void hear_client(Engine* engine, Listener* listener, const DatagramKey* key, const sockaddr_in6* name, uint32_t first,
                      uint32_t n) noexcept nogil
cdef void end_soon(Engine* engine, Listener* listener) noexcept nogil
cdef void end_sessions(Engine* engine, Listener* listener) noexcept nogil
cdef const Codec* datagram_codec() noexcept nogil
cdef const Codec* datagram_backend_codec() noexcept nogil
