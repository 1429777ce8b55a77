"""Passive health: a backend that fails the node's live traffic is ejected, not picked for a time, and comes back by itself.

Decided here by whichever worker sees the failure that is too much, without controller and supervisor; all workers count together. State, all of
it in shared memory, so that it survives reloads, workers and the controller:

- SharedRow.failed_in_row: failures since the last answer that was none. A failure adds to it; an answer after none writes nothing. An answer
  is none as soon as it is whole (attempt.pyx: note_good): a good head whose body is cut is a failure.
- RowHealth: the failures of a window. How many attempts there were in it is known anyway, from the columns of the workers.
- ROW_EJECTED in SharedRow.state, and until when in RowHealth.
- SharedRow.ejecting_ms of the pool's own row: who ejects says so first. Then the ejected ones of the pool are counted, so that no two workers
  together eject too many. Nobody waits for it: who does not get it lets this failure pass. Who dies with it is ignored after EJECTING_MS.

How many may be ejected, Envoy's rule: max_ejected of the pool's backends, rounded down, but always one. And never the last one that is up: to
ask nobody is no better than to ask a bad one. An ejection takes as many times `ejection` as there have been in a row, at most `max_ejection`;
for each `ejection` that the backend has been back one of them is forgotten.

A worker that was taken over may eject whom it likes, or keep others from doing so; nothing here lasts longer than max_ejection from when
anybody else looks, and nothing that is read here leads anywhere.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.shared_table cimport column_at, count_workers, details_at, note_return
from fastlb.data_plane.system cimport (add_long, add_word, exchange_long_if, exchange_word_if, load_long, load_now, load_word, store_long,
                                       store_word)
from fastlb.data_plane.types cimport ROW_EJECTED, Backend, Engine, ImageHealth, Pool, RowHealth, SharedRow

cdef enum:
    EJECTING_MS = 1_000             # a thousand times what it takes to count a pool of ten thousand
    CLOCK_SLACK_MS = 1_000          # how far a sibling's clock, which stands during a batch, may be ahead of ours


cdef inline RowHealth* health_of(Engine* engine, const Backend* backend) noexcept nogil:
    return &details_at(engine.shared, backend.number).health


cdef uint64_t count_ended(Engine* engine, uint32_t row) noexcept nogil:
    # Attempts at this backend that have ended, in all workers that there were.
    cdef:
        uint64_t ended = 0
        uint32_t slot
    for slot in range(count_workers(engine.shared)):
        ended += load_long(&column_at(engine.shared, row, slot).releases)
    return ended


cdef bint is_share_too_large(Engine* engine, const Backend* backend, RowHealth* health, uint64_t failures) noexcept nogil:
    # Of failures in the window, which begins anew where its time is over. `failures`: in all, with the attempt that has just failed.
    cdef:
        const ImageHealth* image = &backend.pool.image.health
        uint64_t ended = count_ended(engine, backend.number) + 1        # this attempt has not
        uint64_t since = load_long(&health.window_ms), requests, failed
    # Unsigned: a window that begins further ahead than that was begun by nobody of ours, and is over.
    if since == 0 or engine.now_ms + CLOCK_SLACK_MS - since >= <uint64_t>image.window_ms + CLOCK_SLACK_MS:
        if exchange_long_if(&health.window_ms, &since, engine.now_ms):
            store_long(&health.window_requests, ended - 1)
            store_long(&health.window_failures, failures - 1)
    failed = failures - load_long(&health.window_failures)
    if failed == 0 or failed > failures:
        return False                            # a sibling has begun a window meanwhile, with failures that came after ours
    requests = max(ended - load_long(&health.window_requests), failed)  # of those that fail together none has ended
    return requests >= image.min_requests and failed * 1000 >= requests * image.error_permille


cdef void forget(SharedRow* row, RowHealth* health) noexcept nogil:
    # Counting begins anew.
    store_word(&row.failed_in_row, 0)
    store_long(&health.window_ms, 0)


# ---------------------------------------------------------------------------------------------------------------- ejecting
cdef bint begin_ejecting(SharedRow* pool_row, uint64_t now_ms) noexcept nogil:
    # False: another worker is about to eject one of this pool.
    cdef uint64_t since = load_long(&pool_row.ejecting_ms)
    if since != 0 and now_ms + EJECTING_MS - since < 2 * EJECTING_MS:   # unsigned: whoever is further off than that is nobody
        return False
    return exchange_long_if(&pool_row.ejecting_ms, &since, now_ms)


cdef void end_ejecting(SharedRow* pool_row, uint64_t began_ms) noexcept nogil:
    # Not where it took so long that somebody else has begun.
    exchange_long_if(&pool_row.ejecting_ms, &began_ms, 0)


cdef bint may_eject(const Pool* pool, const Backend* backend) noexcept nogil:
    cdef:
        uint64_t n = 0, n_ejected = 0, most
        uint32_t i, state
        bint is_last = True
    for i in range(pool.n_backends):
        state = load_now(&pool.backends[i].shared.state)
        n_ejected += state & ROW_EJECTED != 0
        if pool.backends[i].eligible:
            n += 1
            if state == 0 and pool.backends[i].row != backend:
                is_last = False
    most = max(n * pool.image.health.max_ejected_permille // 1000, <uint64_t>1)
    return not is_last and n_ejected < most


cdef uint64_t count_repeats(const ImageHealth* image, const RowHealth* health, uint64_t now_ms) noexcept nogil:
    # Which ejection in a row the next one is, as far as it matters.
    cdef:
        uint64_t repeats = min(<uint64_t>health.repeats, <uint64_t>(image.max_ejection_ms // image.ejection_ms))
        uint64_t forgotten = (now_ms - health.returned_ms) // image.ejection_ms if now_ms > health.returned_ms else 0
    return repeats - min(repeats, forgotten) + 1


cdef bint eject(Engine* engine, Backend* backend, RowHealth* health) noexcept nogil:
    # False: it is out already.
    cdef:
        const ImageHealth* image = &backend.pool.image.health
        uint64_t repeats = count_repeats(image, health, engine.now_ms)
        uint32_t up = 0
    store_long(&health.ejected_until_ms, engine.now_ms + min(repeats * image.ejection_ms, <uint64_t>image.max_ejection_ms))
    if not exchange_word_if(&backend.shared.state, &up, ROW_EJECTED):
        return False
    store_word(&health.repeats, <uint32_t>repeats)
    add_long(&health.ejections, 1)
    add_long(&engine.shared.header.state_changes, 1)
    engine.counters.ejections += 1
    return True


cdef void note_failure(Engine* engine, Backend* backend) noexcept nogil:
    # An attempt at this backend failed in a way that its pool counts (is_counted). What fails while it is out says nothing about how it will
    # come back. A worker that drains ejects nobody: its snapshot is an old one, and others may not bring back what theirs knows nothing of.
    cdef:
        Pool* pool = backend.pool
        const ImageHealth* image = &pool.image.health
        SharedRow* row = backend.shared
        RowHealth* health = health_of(engine, backend)
        uint64_t failures
        uint32_t in_row
    if load_now(&row.state) != 0 or engine.draining:
        return
    failures = add_long(&health.failures, 1) + 1
    in_row = add_word(&row.failed_in_row, 1) + 1
    if not (image.failures_in_row != 0 and in_row >= image.failures_in_row) \
            and not (image.error_permille != 0 and is_share_too_large(engine, backend, health, failures)):
        return
    if not begin_ejecting(pool.health.shared, engine.now_ms):
        return
    if not may_eject(pool, backend):
        engine.counters.ejections_refused += 1
        forget(row, health)                     # so that not every failure that follows counts the whole pool
    elif eject(engine, backend, health):
        forget(row, health)
    end_ejecting(pool.health.shared, engine.now_ms)


# ---------------------------------------------------------------------------------------------------------------- coming back
cdef void bring_back(Engine* engine, Backend* backend) noexcept nogil:
    # Whoever is first does it.
    cdef:
        SharedRow* row = backend.shared
        RowHealth* health = health_of(engine, backend)
        uint32_t state = load_word(&row.state)
    while state & ROW_EJECTED:
        if state == ROW_EJECTED:
            note_return(row, engine.now_ms)
        forget(row, health)
        store_long(&health.returned_ms, engine.now_ms)
        if exchange_word_if(&row.state, &state, state & ~<uint32_t>ROW_EJECTED):
            add_long(&engine.shared.header.state_changes, 1)
            engine.counters.returns += 1
            return


cdef uint64_t return_when_due(Engine* engine, Backend* backend) noexcept nogil:
    # Of a backend of a pool with passive health: brings it back where its time has come. When that will be, 0 = it is not ejected.
    cdef:
        RowHealth* health
        uint64_t until, latest = engine.now_ms + backend.pool.image.health.max_ejection_ms
    if not load_word(&backend.shared.state) & ROW_EJECTED:
        return 0
    health = health_of(engine, backend)
    until = load_long(&health.ejected_until_ms)
    if until <= engine.now_ms:
        bring_back(engine, backend)
        return 0
    if until > latest:                          # from a time with a longer one, or written by nobody of ours
        store_long(&health.ejected_until_ms, latest)
        until = latest
    return until
