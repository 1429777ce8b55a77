"""Tunnels that are quiet, folded: WebSockets and TCP sessions for which a connection on each side is all that is kept.

A tunnel needs its exchange (two relays among it) and its attempt while bytes move. After a moment of silence both go back to their free lists;
the few numbers of them that will be needed again stand in the backend's connection, where a client has its address, so that they take no memory
of their own: an idle tunnel is two connections. Its next event, on either side, or its time-out, unfolds it, and what follows knows nothing of it.

Folded are `codec` and `cache_next` of both connections (the latter is the other side), and Engine.n_folded. Everything else is as it was: the
claim, the places, the meters, the log's record and the client's timer. Whoever walks the connections of an engine for their exchanges has to
unfold them first.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.attempt cimport backend_codec_of, blank_attempt, put_attempt_back
from fastlb.data_plane.connection cimport set_deadline
from fastlb.data_plane.exchange_pool cimport blank_exchange, put_exchange_back
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.relay cimport relay_open
from fastlb.data_plane.system cimport memcpy
from fastlb.data_plane.timer_wheel cimport cancel_timer
from fastlb.data_plane.types cimport (FOLDED_CLAIMED, FOLDED_DOWN_ENDED, FOLDED_GOOD, FOLDED_UP_ENDED, FRAME_TUNNEL, IO_READY_LISTED, KIND_CLIENT,
                                      NO_PIPE, REQUEST_ID_BYTES, RELAY_DONE, RELAY_RUNNING, WAIT_UNSET, X_SESSION, Attempt, Codec, Connection, Engine, Exchange,
                                      FoldedTunnel, Peer, Relay)

cdef extern from *:
    """
    #define fastlb_assert_fits(kept, part) ((void)sizeof(char[sizeof(kept) <= sizeof(part) ? 1 : -1]))
    """
    void assert_fits "fastlb_assert_fits"(FoldedTunnel kept, Peer part) noexcept nogil

cdef enum:
    AGAIN_MS = 100                  # until there is memory


cdef inline FoldedTunnel* kept_in(Connection* backend) noexcept nogil:
    assert_fits((<FoldedTunnel*>&backend.peer)[0], backend.peer)      # when it is compiled
    return <FoldedTunnel*>&backend.peer


cdef inline bint is_quiet(const Relay* relay) noexcept nogil:
    return (relay.state == RELAY_DONE or (relay.state == RELAY_RUNNING and not relay.source_ended)) and relay.pending == NULL and relay.pipe == NO_PIPE


cdef inline const Codec* client_codec_of(const Engine* engine, uint32_t flags) noexcept nogil:
    return engine.session_codec if flags & X_SESSION else engine.client_codec


cdef bint may_fold(const Engine* engine, const Exchange* exchange) noexcept nogil:
    # Nothing waits anywhere. Streams of HTTP/2 have no memory of their own to give back.
    cdef:
        const Connection* client = exchange.client
        const Connection* backend = exchange.attempt.connection
    return client.codec == client_codec_of(engine, exchange.flags) and backend.codec == backend_codec_of(engine, exchange) \
        and exchange.snapshot == NULL and is_quiet(&exchange.up) and is_quiet(&exchange.down) \
        and not (client.io | backend.io) & IO_READY_LISTED and client.input == NULL and backend.input == NULL


cdef bint fold_tunnel(Engine* engine, Exchange* exchange) noexcept nogil:
    # True: it is, and the exchange is no more. False: it cannot be now, and nothing has changed.
    cdef:
        Connection* client = exchange.client
        Attempt* attempt = exchange.attempt
        Connection* backend = attempt.connection
        FoldedTunnel* kept = kept_in(backend)
    if not may_fold(engine, exchange):
        return False
    kept.deadline_ms = exchange.deadline_ms
    kept.began_us = exchange.began_us
    kept.up_moved = exchange.up.moved
    kept.up_sent = exchange.up.sent
    kept.down_moved = exchange.down.moved
    kept.down_sent = exchange.down.sent
    kept.log = exchange.log
    if kept.log != NULL:
        memcpy(kept.log.request_id, exchange.request_id, REQUEST_ID_BYTES)      # its line may tell it; nothing else will
    kept.request_place = attempt.request_place
    kept.flags = exchange.flags
    kept.tunnel_timeout_ms = exchange.tunnel_timeout_ms
    kept.route_meter = exchange.route_meter
    kept.pool_meter = exchange.pool_meter
    kept.status = exchange.status
    kept.failure = exchange.failure
    kept.watched = attempt.watched
    kept.log_try = attempt.log_try
    kept.attempt_state = attempt.state
    kept.ended = (FOLDED_UP_ENDED if exchange.up.state == RELAY_DONE else 0) | (FOLDED_DOWN_ENDED if exchange.down.state == RELAY_DONE else 0) \
        | (FOLDED_CLAIMED if attempt.claimed else 0) | (FOLDED_GOOD if attempt.is_good else 0)
    cancel_timer(&engine.timers, &backend.timer)
    backend.wait = WAIT_UNSET                   # its silence is looked at anew when it is unfolded
    backend.exchange = client.exchange = NULL
    backend.attempt = NULL
    backend.cache_next = client
    client.cache_next = backend
    backend.codec = client.codec = engine.folded_codec
    put_attempt_back(engine, attempt)
    put_exchange_back(engine, exchange)
    engine.n_folded += 1
    return True


cdef inline void unfold_relay(Relay* relay, Exchange* exchange, Connection* source, Connection* sink, bint ended) noexcept nogil:
    relay_open(relay, exchange, source, sink, FRAME_TUNNEL, FRAME_TUNNEL, -1)
    if ended:
        relay.state = RELAY_DONE
        relay.source_ended = True


cdef Exchange* unfold_tunnel(Engine* engine, Connection* connection) noexcept nogil:
    # The exchange of a folded tunnel, of which this is one side, as it was. NULL: out of memory, and it is folded still.
    cdef:
        Connection* client = connection if connection.kind == KIND_CLIENT else connection.cache_next
        Connection* backend = client.cache_next
        FoldedTunnel kept = kept_in(backend)[0]
        Exchange* exchange = blank_exchange(engine)
        Attempt* attempt = blank_attempt(engine)
    if exchange == NULL or attempt == NULL:
        if exchange != NULL:
            put_exchange_back(engine, exchange)
        if attempt != NULL:
            put_attempt_back(engine, attempt)
        return NULL
    attempt.exchange = exchange
    attempt.connection = backend
    attempt.backend = backend.backend
    attempt.state = kept.attempt_state
    attempt.log_try = kept.log_try
    attempt.watched = kept.watched
    attempt.claimed = kept.ended & FOLDED_CLAIMED != 0
    attempt.is_good = <uint8_t>(kept.ended & FOLDED_GOOD != 0)
    attempt.request_place = kept.request_place
    exchange.client = client
    exchange.attempt = attempt
    exchange.flags = kept.flags
    exchange.status = kept.status
    exchange.failure = kept.failure
    exchange.tunnel_timeout_ms = kept.tunnel_timeout_ms
    exchange.deadline_ms = kept.deadline_ms
    exchange.began_us = kept.began_us
    exchange.route_meter = kept.route_meter
    exchange.pool_meter = kept.pool_meter
    exchange.log = kept.log
    if kept.log != NULL:
        memcpy(exchange.request_id, kept.log.request_id, REQUEST_ID_BYTES)
    unfold_relay(&exchange.up, exchange, client, backend, kept.ended & FOLDED_UP_ENDED != 0)
    exchange.up.moved = kept.up_moved
    exchange.up.sent = kept.up_sent
    unfold_relay(&exchange.down, exchange, backend, client, kept.ended & FOLDED_DOWN_ENDED != 0)
    exchange.down.moved = kept.down_moved
    exchange.down.sent = kept.down_sent
    client.cache_next = backend.cache_next = NULL
    client.exchange = backend.exchange = exchange
    backend.attempt = attempt
    backend.codec = backend_codec_of(engine, exchange)
    client.codec = client_codec_of(engine, kept.flags)
    engine.n_folded -= 1
    return exchange


# ---------------------------------------------------------------------------------------------------------- events
cdef void folded_ready(Engine* engine, Connection* connection) noexcept nogil:
    if unfold_tunnel(engine, connection) != NULL:
        connection.codec.ready(engine, connection)
    else:
        list_ready(engine, connection)          # no other event would tell


cdef void folded_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    if unfold_tunnel(engine, connection) != NULL:
        connection.codec.timed_out(engine, connection)
    else:
        set_deadline(engine, connection, engine.now_ms + AGAIN_MS)


cdef Codec FOLDED
FOLDED.ready = folded_ready
FOLDED.timed_out = folded_timed_out


cdef const Codec* folded_codec() noexcept nogil:
    return &FOLDED
