"""Whether a failed attempt may be followed by another one.

Three cases, decided by what was sent and never by hope (RFC 9110 section 9.2.2):
- nothing of the request reached a socket: any method;
- sent on a reused connection that ended without a single byte: the race of keep-alive; idempotent methods only, and only
  while every byte sent can be sent again;
- sent, and anything else went wrong: never.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.failure cimport RETRY_IF_REUSED, RETRY_NO, RETRY_YES, failures
from fastlb.data_plane.types cimport ATTEMPT_ANSWERED, X_HEAD_SENT, X_IDEMPOTENT, X_REPLAYABLE, Attempt, Exchange


cdef inline bint is_stale_reuse(const Attempt* attempt, uint32_t failure) noexcept nogil:
    # A pooled connection that had ended before it was used: says nothing against the backend.
    return failures[failure].retryable == RETRY_IF_REUSED and attempt.reused and attempt.state != ATTEMPT_ANSWERED


cdef inline bint may_retry(const Exchange* exchange, const Attempt* attempt, uint32_t failure) noexcept nogil:
    if exchange.flags & X_HEAD_SENT or exchange.snapshot == NULL or not exchange.flags & X_REPLAYABLE:
        return False
    if failures[failure].retryable == RETRY_NO:
        return False
    if is_stale_reuse(attempt, failure):
        return exchange.up.sent == 0 or exchange.flags & X_IDEMPOTENT
    return (failures[failure].retryable == RETRY_YES or exchange.up.sent == 0) and exchange.n_attempts < exchange.max_attempts
