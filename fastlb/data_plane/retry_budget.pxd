"""How many retries a pool may afford: a share of its exchanges, and a few per second beyond that. A token bucket for each pool and worker.

Without it, backends in trouble would get several times the requests that they already cannot answer. Exchanges are only counted
(Pool.n_exchanges); the bucket is filled when somebody wants to take from it. What is not spent fades over ten seconds, so that a quiet
morning does not pay for a storm at noon. State: Pool.budget and nothing else.

Source: the window and the reserve of Finagle's RetryBudget (ttl 10 s, 10 per second, 20 %).
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.types cimport RetryBudget

cdef enum:
    BUDGET_WINDOW_MS = 10000
    RETRY_TOKENS = 1000000          # the price of one: exchanges pay in parts per million
    MAX_RETRY_FLOOR = 100000        # per second; more is no limit
cdef enum:
    MOST_TOKENS = 1000000000000000  # 10^9 retries; times the window it fits 64 bits


cdef inline void open_budget(RetryBudget* budget, uint32_t floor, uint64_t now_ms) noexcept nogil:
    # A pool that nothing is known of has what a quiet one has.
    budget.tokens = <uint64_t>floor * (RETRY_TOKENS // 1000) * BUDGET_WINDOW_MS
    budget.counted = 0
    budget.filled_ms = now_ms


cdef inline void fill_budget(RetryBudget* budget, uint64_t n_exchanges, uint32_t share_ppm, uint32_t floor, uint64_t now_ms) noexcept nogil:
    # Adds what was earned since the last time. `n_exchanges` only grows.
    cdef:
        uint64_t passed = now_ms - budget.filled_ms if now_ms > budget.filled_ms else 0
        uint64_t earned = n_exchanges - budget.counted
    if passed >= BUDGET_WINDOW_MS:
        earned = earned * BUDGET_WINDOW_MS // passed    # those of the last window, as if they had come evenly
        passed = BUDGET_WINDOW_MS
        budget.tokens = 0
    else:
        budget.tokens -= budget.tokens * passed // BUDGET_WINDOW_MS
    budget.tokens += earned * share_ppm + passed * floor * (RETRY_TOKENS // 1000)
    if budget.tokens > <uint64_t>MOST_TOKENS:
        budget.tokens = MOST_TOKENS
    budget.counted = n_exchanges
    if now_ms > budget.filled_ms:
        budget.filled_ms = now_ms


cdef inline bint spend_retry(RetryBudget* budget) noexcept nogil:
    # Takes one from a bucket that has just been filled. False: there is none.
    if budget.tokens < RETRY_TOKENS:
        return False
    budget.tokens -= RETRY_TOKENS
    return True


cdef inline void return_retry(RetryBudget* budget) noexcept nogil:
    # One that was taken just now and came to nothing.
    budget.tokens += RETRY_TOKENS
