"""The client of a mirrored request, as its exchange sees it: a Codec that begins the exchange, drops every answer and then ends both.

Owns nothing: the exchange was put together by mirror.pyx. It never logs, counts no status and no reason, and is tried once.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.connection cimport close_connection, set_deadline
from fastlb.data_plane.exchange cimport close_exchange, progress, start
from fastlb.data_plane.relay cimport relay_offer, relay_open, relay_run
from fastlb.data_plane.request_program cimport enter_pool
from fastlb.data_plane.types cimport (FRAME_UNTIL_CLOSE, RELAY_RUNNING, STATE_EXCHANGE, STATE_HEAD, WAIT_QUEUE, WAIT_UNSET, X_MIRROR, X_REUSABLE, Codec,
                                      Connection, Engine, Exchange, Head)


cdef void end_mirror(Engine* engine, Exchange* exchange) noexcept nogil:
    cdef Connection* connection = exchange.client
    close_exchange(engine, exchange)
    close_connection(engine, connection, False)


cdef void fail_mirror(Engine* engine, Exchange* exchange) noexcept nogil:
    engine.counters.mirrors_failed += 1
    end_mirror(engine, exchange)


cdef void mirror_ready(Engine* engine, Connection* connection) noexcept nogil:
    # Its turn on the ready list: the copy goes out, to a backend of the mirror's pool.
    cdef Exchange* exchange = connection.exchange
    if connection.state != STATE_HEAD:
        progress(engine, exchange)
        return
    connection.state = STATE_EXCHANGE
    connection.wait = WAIT_UNSET
    if exchange.flags & X_MIRROR:
        fail_mirror(engine, exchange)           # there was no memory for all of it
        return
    enter_pool(engine, exchange, exchange.route.mirror_pool, exchange.request_head.end)
    exchange.max_attempts = 1
    # The head parsed last is another request's, also where the copy stands in a block that was that one's.
    engine.request.data = NULL
    start(engine, exchange)


cdef void mirror_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    # Nobody waits here but for the exchange as a whole, or in the queue of a full pool.
    if engine.now_ms >= connection.exchange.deadline_ms or connection.wait == WAIT_QUEUE:
        fail_mirror(engine, connection.exchange)
    else:
        set_deadline(engine, connection, connection.exchange.deadline_ms)


cdef void drop_informational(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    return


cdef bint drop_head(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    # The body is read to its end, so that the backend is done with it as with any other and its connection can be used again.
    if head.framing == FRAME_UNTIL_CLOSE:
        exchange.flags &= ~<uint32_t>X_REUSABLE
    relay_open(&exchange.down, exchange, exchange.attempt.connection, exchange.client, head.framing, FRAME_UNTIL_CLOSE, head.content_length)
    relay_offer(engine, &exchange.down, 0, body, body_size)
    if exchange.down.state == RELAY_RUNNING:
        relay_run(engine, &exchange.down)
    return True


cdef void drop_local(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    fail_mirror(engine, exchange)


cdef bint refuse_tunnel(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    return False                                # upgrades are not mirrored, so a 101 is refused before


cdef Codec MIRROR
MIRROR.ready = mirror_ready
MIRROR.timed_out = mirror_timed_out
MIRROR.send_informational = drop_informational
MIRROR.send_head = drop_head
MIRROR.send_local = drop_local
MIRROR.send_answer = NULL              # a route that answers by itself has no mirror
MIRROR.end = end_mirror
MIRROR.reset = fail_mirror
MIRROR.switch_to_tunnel = refuse_tunnel


cdef const Codec* mirror_codec() noexcept nogil:
    return &MIRROR
