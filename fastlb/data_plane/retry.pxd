"""Whether an attempt that came to nothing may be followed by another one.

Decided by what was sent and what the pool allows, never by hope (RFC 9110 section 9.2.2):
- nothing of the request reached the backend: any method;
- something did: idempotent methods, others only where the pool says that they are safe too (`unsafe`), and only while every byte sent can
  be sent again;
- a pooled connection that ended without a single byte: the race of keep-alive. The same backend again, on a connection of its own;
- the head of the answer is on its way to the client: never.

An attempt that asks a backend for what another one was asked already is paid for out of the pool's budget. One that follows a failed
connect is not: no backend has had the request yet.
"""
from libc.stdint cimport int32_t, uint32_t

from fastlb.data_plane.failure cimport (FAILURE_TRUNCATED, RETRY_NO, RETRY_ON_403, RETRY_ON_404, RETRY_ON_429, RETRY_ON_500, RETRY_ON_502, RETRY_ON_503,
                                        RETRY_ON_504, RETRY_ON_BAD_RESPONSE, RETRY_ON_CLOSED, RETRY_ON_CONNECT, RETRY_ON_OTHER_5XX,
                                        RETRY_ON_RESET, RETRY_UNSAFE, failures)
from fastlb.data_plane.limits cimport give_retry_place_back, take_retry_place
from fastlb.data_plane.retry_budget cimport fill_budget, spend_retry
from fastlb.data_plane.select.candidates cimport find_candidate, is_eligible
from fastlb.data_plane.types cimport (ATTEMPT_ANSWERED, ATTEMPT_SENT, MAX_TRIED, NO_BACKEND, X_HEAD_SENT, X_IDEMPOTENT, X_REPLAYABLE, X_RETRY_PLACE,
                                      X_TUNNEL, Attempt, Engine, Exchange, ImagePool)


cdef inline bint was_sent(const Exchange* exchange, const Attempt* attempt) noexcept nogil:
    # Whether this attempt's backend may have seen some of the request.
    return attempt.state >= ATTEMPT_SENT or (attempt.connection != NULL and exchange.up.sink == attempt.connection and exchange.up.sent != 0)


cdef inline uint32_t end_condition(const Exchange* exchange, const Attempt* attempt, uint32_t failure) noexcept nogil:
    # Which RetryOn this end of an attempt is; RETRY_NO for those that another backend would not change.
    cdef uint32_t condition = failures[failure].retry_on
    if condition & (RETRY_ON_CLOSED | RETRY_ON_RESET):
        if attempt.state == ATTEMPT_ANSWERED:
            return RETRY_ON_BAD_RESPONSE        # within its head
        if not exchange.flags & X_TUNNEL and not was_sent(exchange, attempt):
            return RETRY_ON_CONNECT             # of a session that stood its client decides what is sent
    return condition


cdef inline uint32_t failure_condition(const Exchange* exchange, const Attempt* attempt, uint32_t failure) noexcept nogil:
    # The same where nothing can be tried again: an answer that ends early is no whole HTTP.
    return RETRY_ON_BAD_RESPONSE if failure == FAILURE_TRUNCATED else end_condition(exchange, attempt, failure)


cdef inline uint32_t status_condition(uint32_t status) noexcept nogil:
    # The same for a whole answer.
    if status == 503:
        return RETRY_ON_503
    if status == 502:
        return RETRY_ON_502
    if status == 504:
        return RETRY_ON_504
    if status == 500:
        return RETRY_ON_500
    if status == 429:
        return RETRY_ON_429
    if status == 404:
        return RETRY_ON_404
    if status == 403:
        return RETRY_ON_403
    return RETRY_ON_OTHER_5XX if 500 <= status < 600 else RETRY_NO


cdef inline bint is_stale_reuse(const Attempt* attempt, uint32_t failure) noexcept nogil:
    # A pooled connection that had ended before it was used: says nothing against the backend.
    return failures[failure].retry_on & (RETRY_ON_CLOSED | RETRY_ON_RESET) and attempt.reused and attempt.state != ATTEMPT_ANSWERED


cdef inline bint can_send_again(const Exchange* exchange, const Attempt* attempt) noexcept nogil:
    # As far as the request goes. The exchange holds its snapshot until its answer begins.
    if exchange.flags & X_HEAD_SENT or exchange.snapshot == NULL or not exchange.flags & X_REPLAYABLE:
        return False
    return exchange.flags & X_IDEMPOTENT or not was_sent(exchange, attempt) or exchange.pool.image.retry_on & RETRY_UNSAFE


cdef inline bint may_begin_another(const Engine* engine, const Exchange* exchange) noexcept nogil:
    # As far as number and time go.
    return (exchange.n_attempts < exchange.max_attempts
            and engine.now_ms - exchange.started_ms < exchange.pool.image.retry_within_ms)


cdef inline bint take_from_budget(Engine* engine, Exchange* exchange) noexcept nogil:
    # Pays for asking one more backend. False: refused, and counted.
    cdef const ImagePool* image = exchange.pool.image
    fill_budget(&exchange.pool.budget, exchange.pool.n_exchanges, image.retry_share_ppm, image.retry_floor, engine.now_ms)
    if spend_retry(&exchange.pool.budget):
        return True
    engine.counters.retries_refused += 1
    return False


cdef inline bint pay_for_another(Engine* engine, Exchange* exchange, bint asks_again) noexcept nogil:
    # One more attempt costs a place among the pool's retries, and one of its budget where a backend has had the request already
    # (asks_again). The place comes first, because it can be given back. False: refused and counted, and nothing is spent.
    cdef bint has_place = exchange.flags & X_RETRY_PLACE != 0
    if not take_retry_place(engine, exchange):
        return False
    if not asks_again or take_from_budget(engine, exchange):
        return True
    if not has_place:
        give_retry_place_back(engine, exchange)
    return False


cdef inline bint may_retry(Engine* engine, Exchange* exchange, const Attempt* attempt, uint32_t condition) noexcept nogil:
    # Whether another backend may be asked after this end (a RetryOn) of the current attempt. What that costs is then paid.
    if not can_send_again(exchange, attempt) or not exchange.pool.image.retry_on & condition or not may_begin_another(engine, exchange):
        return False
    return pay_for_another(engine, exchange, was_sent(exchange, attempt))


cdef inline bint can_be_hedged(const Exchange* exchange, uint32_t timeout_ms) noexcept nogil:
    # X_HEDGE, and its body is complete: whether it is kept, and there is time before the wait that has this time-out ends.
    return exchange.flags & X_REPLAYABLE and exchange.pool.image.hedge_after_ms < timeout_ms


cdef inline bint was_tried(const Exchange* exchange, int32_t pick) noexcept nogil:
    cdef uint32_t i
    for i in range(exchange.n_tried):
        if exchange.tried[i] == pick:
            return True
    return False


cdef inline void note_tried(Exchange* exchange, int32_t pick) noexcept nogil:
    # This backend is not picked again for this exchange.
    if exchange.n_tried < MAX_TRIED and not was_tried(exchange, pick):
        exchange.tried[exchange.n_tried] = pick
        exchange.n_tried += 1


cdef inline bint has_untried(const Exchange* exchange) noexcept nogil:
    # Whether a backend is left that may be picked, perhaps once it is below its cap again.
    cdef uint32_t i
    for i in range(exchange.pool.n_backends):
        if is_eligible(&exchange.pool.backends[i]) and not was_tried(exchange, <int32_t>i):
            return True
    return False


cdef inline bint has_candidate(const Exchange* exchange) noexcept nogil:
    # Whether a backend is left that would be picked now.
    cdef uint32_t i
    for i in range(exchange.pool.n_groups):
        if find_candidate(&exchange.pool.groups[i], 0, exchange.tried, exchange.n_tried) != NO_BACKEND:
            return True
    return False
