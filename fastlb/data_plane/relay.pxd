from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastlb.data_plane.types cimport Connection, Engine, Exchange, Relay

cdef void relay_open(Relay* relay, Exchange* exchange, Connection* source, Connection* sink,
                     uint32_t source_framing, uint32_t sink_framing, int64_t length) noexcept nogil
cdef void relay_close(Engine* engine, Relay* relay) noexcept nogil
cdef void relay_offer(Engine* engine, Relay* relay, uint32_t prefix_size, char* data, uint32_t size) noexcept nogil
cdef void relay_replay(Engine* engine, Relay* relay, uint32_t prefix_size) noexcept nogil
cdef void relay_run(Engine* engine, Relay* relay) noexcept nogil
cdef void relay_redirect(Engine* engine, Relay* relay, Connection* sink) noexcept nogil
cdef void relay_interject(Engine* engine, Relay* relay, Connection* sink, uint32_t prefix_size) noexcept nogil
cdef void relay_flush(Engine* engine, Relay* relay) noexcept nogil
