"""A second attempt beside the first: begun when a backend takes long, so that the quicker of two backends answers.

While there are two, `Exchange.attempt` is the one that the current event is about and `Exchange.hedge` the other: whoever gets an event of
a backend's connection calls `face_attempt`, and everything behind that knows one attempt only. The first byte of an answer decides: the
other attempt ends, with its connection. If one fails the other goes on, as if it had been alone; no third one is begun meanwhile.

The request's relay serves who was sent to last (`Relay.sink`). The other one has been sent everything by then, or is still connecting.
Before the head of an answer goes to the client there is one attempt again, so nothing after that has to know of hedges.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.attempt cimport blame_backend, end_attempt, start_attempt
from fastlb.data_plane.buffer cimport return_buffer
from fastlb.data_plane.limits cimport give_retry_place_back
from fastlb.data_plane.queue cimport must_wait
from fastlb.data_plane.retry cimport has_candidate, is_stale_reuse, may_begin_another, note_tried, pay_for_another
from fastlb.data_plane.retry_budget cimport return_retry
from fastlb.data_plane.types cimport (ATTEMPT_SENT, NO_BACKEND, RELAY_DONE, RELAY_OFF, RELAY_RUNNING, X_FRESH, X_HEDGE, X_RESEND,
                                      X_RETRY_PLACE, X_STICKY, Attempt, Connection, Engine, Exchange, Relay)


cdef void hand_over_relay(Engine* engine, Exchange* exchange, const Connection* ended) noexcept nogil:
    # The attempt with this connection has ended; what the request's relay did for it, it does for the one that is left.
    cdef Relay* up = &exchange.up
    if ended == NULL or up.sink != ended:
        return
    return_buffer(&engine.buffers, up.pending)
    up.pending = NULL
    if exchange.attempt.state >= ATTEMPT_SENT:
        up.sink = exchange.attempt.connection   # has had everything
        up.state = RELAY_DONE
    else:
        up.sink = NULL                          # still connects
        up.state = RELAY_OFF


cdef void end_rival(Engine* engine, Exchange* exchange) noexcept nogil:
    # The other attempt is not wanted any more. Says nothing against its backend.
    cdef:
        Attempt* attempt = exchange.attempt
        const Connection* ended = exchange.hedge.connection
    exchange.attempt = exchange.hedge
    exchange.hedge = NULL
    end_attempt(engine, exchange, False)
    exchange.attempt = attempt
    hand_over_relay(engine, exchange, ended)


cdef void note_failed(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # What the failure of the current attempt means for its backend and for later ones.
    cdef Attempt* attempt = exchange.attempt
    exchange.failure = <uint8_t>failure
    if is_stale_reuse(attempt, failure):
        exchange.flags |= X_FRESH
        exchange.n_attempts -= 1
    else:
        blame_backend(engine, exchange, failure)
        note_tried(exchange, attempt.pick)


cdef bint begin_hedge(Engine* engine, Exchange* exchange) noexcept nogil:
    # The current attempt has taken long: another one, at another backend, where one is left and the pool can afford it. True: it is under
    # way, and the current one now. An exchange has one hedge at most.
    cdef:
        Attempt* first = exchange.attempt
        uint8_t n_tried = exchange.n_tried
        bint has_place = exchange.flags & X_RETRY_PLACE != 0
        uint32_t failure
    exchange.flags &= ~<uint32_t>X_HEDGE
    if exchange.flags & X_STICKY and exchange.sticky != NO_BACKEND:
        return False                            # the answer of another backend may be another answer
    note_tried(exchange, first.pick)            # until the pick
    if not has_candidate(exchange) or (exchange.pool.queue != NULL and must_wait(engine, exchange)) \
            or not may_begin_another(engine, exchange) or not pay_for_another(engine, exchange, True):
        exchange.n_tried = n_tried
        return False
    if exchange.up.state == RELAY_DONE and first.state < ATTEMPT_SENT:
        first.state = ATTEMPT_SENT              # not with the first send, but by now
    exchange.flags |= X_RESEND
    exchange.hedge = first
    exchange.attempt = NULL
    failure = start_attempt(engine, exchange)
    exchange.n_tried = n_tried
    if exchange.attempt == NULL:                # the backend's last place went to a sibling, or the pool's limit of requests is reached
        exchange.attempt = first
        exchange.hedge = NULL
        return_retry(&exchange.pool.budget)
        if not has_place:
            give_retry_place_back(engine, exchange)
        return False
    exchange.attempt.is_hedge = True
    engine.counters.hedges_started += 1
    if failure:
        lose_race(engine, exchange, failure)
    return failure == 0


cdef void clear_way(Engine* engine, Exchange* exchange) noexcept nogil:
    # The current attempt, whose connection has just been made, is to be sent the request. The other one has it, or is ended: a relay serves
    # one at a time, and a backend that does not even read its request is the slower of the two.
    cdef Relay* up = &exchange.up
    if up.sink == NULL or up.sink != exchange.hedge.connection:
        return
    if up.state == RELAY_RUNNING:
        end_rival(engine, exchange)
    elif exchange.hedge.state < ATTEMPT_SENT:
        exchange.hedge.state = ATTEMPT_SENT


cdef void win_race(Engine* engine, Exchange* exchange) noexcept nogil:
    # The first byte of an answer came from the current attempt's backend.
    engine.counters.hedges_won += exchange.attempt.is_hedge
    end_rival(engine, exchange)


cdef void lose_race(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # The current attempt failed while the other one runs, which goes on alone.
    cdef const Connection* ended = exchange.attempt.connection
    note_failed(engine, exchange, failure)
    end_attempt(engine, exchange, False)
    exchange.attempt = exchange.hedge
    exchange.hedge = NULL
    engine.counters.hedges_won += exchange.attempt.is_hedge
    hand_over_relay(engine, exchange, ended)
