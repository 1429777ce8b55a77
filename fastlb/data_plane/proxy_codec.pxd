from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Codec, Connection, Engine, Exchange, ProxyFacts

cdef const Codec* proxy_codec() noexcept nogil
cdef const Codec* proxy_backend_codec() noexcept nogil
cdef uint32_t put_header_first(Engine* engine, Exchange* exchange, Connection* connection) noexcept nogil
cdef uint32_t find_common_name(const char* subject, uint32_t size, char* name) noexcept nogil
cdef void drop_proxy_facts(ProxyFacts** facts) noexcept nogil
cdef uint32_t proxy_fact(const Connection* client, uint32_t fact, const char** text) noexcept nogil
