"""TCP sessions (layer 4): a client of a tcp listener and the backend that it gets, with bytes between them that nobody looks at.

    accepted (-> read_hello, or shaken hands) -> begin_session -> start attempt -> (connected) -> begin_relaying: both relays run -> both have ended, or one side has failed

A session is an exchange without heads. Its route, which its listener names, does nothing but lead to a pool; attempts, claims, retries, the
pool's queue, time-outs, meters and the line in the log are those of any exchange, and from the moment its backend is connected it is a
tunnel as a WebSocket is. So there are two Codec tables here, and little behind them.

- It begins with the connection, not with the first bytes: many servers speak first. Where TLS is passed on, the client's first message is
  waited for, which says whom it wants (passthrough.pyx).
- What the client sends meanwhile stays in its socket. So another backend is asked only while none was connected: nothing can be sent twice,
  and nothing has to be kept for that.
- A direction that ends is passed on as an end, a side that is reset as a reset of the other one (exchange.pyx: settle_tunnel). A client that
  gets no backend is reset: it would take an orderly end for an answer without bytes.
- Its connections are never pooled.

It changes nothing but exchanges and their connections, and keeps nothing of its own.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.access_log cimport log_pool, log_session
from fastlb.data_plane.attempt cimport note_answer
from fastlb.data_plane.connection cimport close_connection
from fastlb.data_plane.exchange cimport abandon, client_overdue, close_exchange, finish_connecting, open_exchange, open_tunnel, progress, refuse, start
from fastlb.data_plane.failure cimport FAILURE_CLIENT_RESET, FAILURE_TLS_TIMEOUT, FAILURE_TLS_UNKNOWN_NAME, failures
from fastlb.data_plane.http1 cimport http1_backend_codec
from fastlb.data_plane.meters cimport now_us, status_class
from fastlb.data_plane.passthrough cimport HELLO_LEFT, HELLO_ROUTED, HELLO_WAITS, log_hello, read_agreement, read_hello, refuse_name
from fastlb.data_plane.request_program cimport enter_pool
from fastlb.data_plane.sticky cimport begin_sticky, note_sticky_answer
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.transport cimport connect_result
from fastlb.data_plane.types cimport (IO_ERROR, NO_INDEX, POOL_STICKY, STATE_CONNECTING, STATE_HEAD, X_FRESH, X_HEAD_SENT, X_REPLAYABLE, X_SESSION, X_STICKY,
                                      X_TUNNEL, Attempt, Codec, Connection, Engine, Exchange, ImageRoute)

cdef enum:
    CONNECTED_STATUS = 200          # nginx's, for logs and meters: the session had a backend

cdef uint64_t NEVER_MS = <uint64_t>-1 >> 1


# ---------------------------------------------------------------------------------------------------------- clients
cdef Exchange* open_session(Engine* engine, Connection* client) noexcept nogil:
    # NULL: out of memory, and the client is reset.
    cdef Exchange* exchange = open_exchange(engine, client)
    if exchange == NULL:
        close_connection(engine, client, True)
        return NULL
    exchange.flags = X_SESSION | X_REPLAYABLE | X_FRESH
    if unlikely(exchange.log != NULL):
        log_session(engine, exchange)
        if client.listener.chooses_by_name:
            log_hello(engine, exchange)
    return exchange


cdef void await_hello(Engine* engine, Connection* client) noexcept nogil:
    # An event of a client whose first message says where it wants to go, within the time of a head from accept on; or that has shaken hands.
    cdef:
        uint32_t route = 0
        int result
    client.state = STATE_HEAD
    result = read_agreement(engine, client, &route) if client.tls != NULL else read_hello(engine, client, &route)
    if result == HELLO_ROUTED:
        begin_session(engine, client, route)
    elif result == HELLO_LEFT:
        close_connection(engine, client, False)     # a probe of whether we are here, perhaps
    elif result != HELLO_WAITS:
        refuse_hello(engine, client, <uint32_t>-result)


cdef void refuse_hello(Engine* engine, Connection* client, uint32_t failure) noexcept nogil:
    cdef Exchange* exchange = open_session(engine, client)
    if exchange != NULL:
        refuse(engine, exchange, failure)


cdef void begin_session(Engine* engine, Connection* client, uint32_t route) noexcept nogil:
    cdef Exchange* exchange = open_session(engine, client)
    if exchange == NULL:
        return
    exchange.began_us = now_us(engine)
    exchange.route = <const ImageRoute*>(exchange.snapshot.image + exchange.snapshot.header.routes.offset) + route
    enter_pool(engine, exchange, exchange.route.pool, 0)
    if unlikely(exchange.pool.flags & POOL_STICKY):
        begin_sticky(engine, exchange, NULL)
    if unlikely(exchange.log != NULL):
        log_pool(engine, exchange)
    start(engine, exchange)


cdef inline bint was_reset(Connection* client) noexcept nogil:
    # And has not just ended: of a unix socket that sets IO_ERROR too.
    return client.io & IO_ERROR and connect_result(client) != 0


cdef void begin_client(Engine* engine, Connection* client) noexcept nogil:
    # It is there, whether it has said anything or not.
    if client.listener.chooses_by_name:
        await_hello(engine, client)
    elif client.listener.session_route == <uint32_t>NO_INDEX or was_reset(client):
        close_connection(engine, client, True)  # its listener is gone meanwhile, or speaks HTTP; it was reset at once
    else:
        begin_session(engine, client, client.listener.session_route)


cdef void client_ready(Engine* engine, Connection* client) noexcept nogil:
    cdef Exchange* exchange = client.exchange
    if unlikely(exchange == NULL):
        begin_client(engine, client)
    elif exchange.flags & X_TUNNEL:
        progress(engine, exchange)
    elif was_reset(client):
        abandon(engine, exchange, FAILURE_CLIENT_RESET)
    # Else it waits for a backend, and what it sends for that. It may have ended its direction already: half-close is kept.


cdef void client_timed_out(Engine* engine, Connection* client) noexcept nogil:
    if client.exchange != NULL:
        client_overdue(engine, client.exchange)
    elif client.listener.chooses_by_name:
        refuse_hello(engine, client, FAILURE_TLS_TIMEOUT)
    else:
        begin_client(engine, client)            # its first event has not come yet


cdef void refuse_session(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # There is no backend for it.
    cdef Connection* client = exchange.client
    cdef bint is_told = failure == FAILURE_TLS_UNKNOWN_NAME and client.tls == NULL
    if is_told:
        refuse_name(engine, client)
    exchange.status = failures[failure].status
    exchange.flags |= X_HEAD_SENT               # that is all that it gets
    close_exchange(engine, exchange)
    close_connection(engine, client, not is_told)


cdef void cut_session(Engine* engine, Exchange* exchange) noexcept nogil:
    # Its backend is taken out of use.
    cdef Connection* client = exchange.client
    close_exchange(engine, exchange)
    close_connection(engine, client, True)


# ---------------------------------------------------------------------------------------------------------- backends
cdef uint32_t begin_relaying(Engine* engine, Attempt* attempt) noexcept nogil:
    # Its connection stands: from here on both directions are plain bytes, and what goes wrong is the client's to see.
    cdef:
        Exchange* exchange = attempt.exchange
        uint32_t timeout_ms = exchange.client.listener.settings.session_timeout_ms
    exchange.flags |= X_TUNNEL | X_HEAD_SENT
    exchange.status = CONNECTED_STATUS
    exchange.failure = 0
    exchange.deadline_ms = exchange.started_ms + timeout_ms if timeout_ms else NEVER_MS
    engine.counters.tunnels_opened += 1
    attempt.backend.meter.statuses[status_class(CONNECTED_STATUS)] += 1
    if unlikely(attempt.watched):
        note_answer(engine, attempt, CONNECTED_STATUS)      # its latency is how long connecting took: what follows depends on the client
    if unlikely(exchange.flags & X_STICKY):
        note_sticky_answer(engine, exchange, NULL)
    open_tunnel(engine, exchange, 0, NULL, 0)
    return 0


cdef void backend_ready(Engine* engine, Connection* connection) noexcept nogil:
    if unlikely(connection.state == STATE_CONNECTING):
        finish_connecting(engine, connection)
    else:
        progress(engine, connection.exchange)


cdef Codec CLIENT                       # what a session has no heads for is never called
CLIENT.ready = client_ready
CLIENT.timed_out = client_timed_out
CLIENT.send_local = refuse_session
CLIENT.reset = cut_session

cdef Codec BACKEND
BACKEND.ready = backend_ready
BACKEND.timed_out = http1_backend_codec().timed_out         # what it waits for is told apart by the exchange
BACKEND.send_request = begin_relaying


cdef const Codec* session_codec() noexcept nogil:
    return &CLIENT


cdef const Codec* session_backend_codec() noexcept nogil:
    return &BACKEND
