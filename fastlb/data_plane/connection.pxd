from libc.stdint cimport uint64_t

from fastlb.data_plane.timer_wheel cimport set_timer
from fastlb.data_plane.types cimport Codec, Connection, Engine, Listener

cdef void close_connection(Engine* engine, Connection* connection, bint reset) noexcept nogil
cdef void drop_listener(Engine* engine, Listener* listener) noexcept nogil
cdef void keep_idle(Engine* engine, Connection* connection) noexcept nogil
cdef void stand_for(Connection* connection, const Connection* client) noexcept nogil
cdef void begin_codec(Engine* engine, Connection* client, const Codec* codec) noexcept nogil
cdef void adopt_client(Engine* engine, Connection* client, Listener* listener) noexcept nogil


cdef inline void set_deadline(Engine* engine, Connection* connection, uint64_t deadline_ms) noexcept nogil:
    set_timer(&engine.timers, &connection.timer, deadline_ms)


cdef inline void limit_idle(Engine* engine, Connection* client) noexcept nogil:
    # This client is idle and the engine drains: it may send one more request within the grace, if its own time-out is not shorter.
    if client.timer.deadline_ms > engine.now_ms + engine.drain_idle_grace_ms:
        set_deadline(engine, client, engine.now_ms + engine.drain_idle_grace_ms)
