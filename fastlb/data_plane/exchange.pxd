from libc.stdint cimport uint32_t

from fastlb.data_plane.meters cimport count_failure
from fastlb.data_plane.types cimport KIND_MIRROR, Connection, Engine, Exchange, Head

cdef Exchange* open_exchange(Engine* engine, Connection* client) noexcept nogil
cdef void close_exchange(Engine* engine, Exchange* exchange) noexcept nogil
cdef void free_ended_exchanges(Engine* engine) noexcept nogil
cdef void begin_exchange(Engine* engine, Exchange* exchange, Head* head) noexcept nogil
cdef void start(Engine* engine, Exchange* exchange) noexcept nogil
cdef void refuse(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef void abandon(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef bint end_failed_attempt(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef void fail_attempt(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil
cdef void hedge_attempt(Engine* engine, Exchange* exchange) noexcept nogil
cdef void connected(Engine* engine, Exchange* exchange) noexcept nogil
cdef void finish_connecting(Engine* engine, Connection* connection) noexcept nogil
cdef void drop_retry(Engine* engine, Exchange* exchange) noexcept nogil
cdef void take_response_head(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil
cdef void open_tunnel(Engine* engine, Exchange* exchange, uint32_t prefix_size, char* body, uint32_t body_size) noexcept nogil
cdef void client_overdue(Engine* engine, Exchange* exchange) noexcept nogil
cdef void rest_tunnel(Engine* engine, Exchange* exchange) noexcept nogil
cdef void progress(Engine* engine, Exchange* exchange) noexcept nogil
cdef void serve_queues(Engine* engine) noexcept nogil


cdef inline void count_reason(Engine* engine, const Exchange* exchange, uint32_t failure) noexcept nogil:
    # Why a client got no whole answer of a backend. What becomes of a mirror no client sees.
    if exchange.client.kind != KIND_MIRROR:
        engine.counters.reasons[failure] += 1
        count_failure(engine, exchange.client.listener.meter, failure)
        count_failure(engine, exchange.route_meter, failure)
        count_failure(engine, exchange.pool_meter, failure)
