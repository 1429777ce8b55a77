"""One try of an exchange at one backend: pick, claim, connection, and the end of all three.

The claim (the backend's in-flight count) lasts from the pick to the end of the attempt. The connection comes from the
backend's idle cache, newest first, or is opened; where the backend speaks HTTP/2 it is a stream (http2_backend.pyx).
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastlb.data_plane.access_log cimport log_attempt, log_attempt_end, log_connected
from fastlb.data_plane.backend_table cimport claim, drop_backend, note_idle, release_claim
from fastlb.data_plane.connection cimport close_connection, keep_idle, set_deadline
from fastlb.data_plane.connection_table cimport open_connection
from fastlb.data_plane.failure cimport FAILURE_BACKEND_TLS, FAILURE_NO_LOCAL_ADDRESS
from fastlb.data_plane.failure cimport (FAILURE_CONNECT_FAILED, FAILURE_CONNECT_REFUSED, FAILURE_CONNECT_TIMEOUT, FAILURE_NO_BACKEND,
                                        FAILURE_OUT_OF_MEMORY, FAILURE_POOL_FULL, FAILURE_REQUESTS_LIMIT, SIDE_BACKEND, failures)
from fastlb.data_plane.http2_backend cimport open_backend_stream
from fastlb.data_plane.idle_cache cimport cache_take
from fastlb.data_plane.limits cimport give_place_back, take_connection_places, take_place, unlist_idle
from fastlb.data_plane.meters cimport count_backend_failure, count_connect, count_reuse, note_connected, now_us
from fastlb.data_plane.panic cimport look_for_panic
from fastlb.data_plane.passive_health cimport is_counted, note_failure, note_success
from fastlb.data_plane.proxy_codec cimport put_header_first
from fastlb.data_plane.retry cimport can_be_hedged, failure_condition, has_untried, status_condition
from fastlb.data_plane.select.candidates cimport is_eligible
from fastlb.data_plane.select.dispatch cimport pick
from fastlb.data_plane.select.latency cimport note_row_latency
from fastlb.data_plane.sticky cimport pick_sticky
from fastlb.data_plane.system cimport (EADDRNOTAVAIL, ECONNREFUSED, EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM, ETIMEDOUT, SOCK_DGRAM, SOCK_STREAM, close, likely, memset,
                                       unlikely)
from fastlb.data_plane.tls cimport open_backend_tls
from fastlb.data_plane.transport cimport start_connect, still_open, watch, watch_input
from fastlb.data_plane.types cimport WAIT_HEDGE, X_BODY_DONE, X_HEDGE
from fastlb.data_plane.types cimport (ALGORITHM_PEAK_EWMA, ATTEMPT_CONNECTING, IO_HALF_CLOSED, IO_READABLE, IO_WRITABLE, KIND_BACKEND, NO_BACKEND,
                                      LIMIT_REQUESTS, POOL_LIMITS, POOL_NOTES_LATENCY, POOL_OPENINGS, POOL_PANICS, POOL_PASSIVE_HEALTH, POOL_SENDS_HEADER, POOL_WATCHES, STATE_CONNECTING, STATE_EXCHANGE, WAIT_CONNECT, WAIT_UNSET, X_FRESH, X_IDEMPOTENT,
                                      Attempt, Backend, Codec, Connection, Engine, Exchange, PoolBackend)
from fastlb.data_plane.types cimport X_STICKY

cdef extern from "<errno.h>" nogil:
    int ENOENT, EAGAIN, EADDRINUSE

cdef enum:
    FREE_ATTEMPTS_KEPT = 1024


cdef uint32_t connect_failure(int error) noexcept nogil:
    # The failure kind of a connect's errno. All of them mean that nothing was sent.
    if error == ECONNREFUSED or error == ENOENT:
        return FAILURE_CONNECT_REFUSED
    if error == ETIMEDOUT:
        return FAILURE_CONNECT_TIMEOUT
    if error == EMFILE or error == ENFILE or error == ENOMEM or error == ENOBUFS:
        return FAILURE_OUT_OF_MEMORY
    if error == EADDRNOTAVAIL:
        return FAILURE_NO_LOCAL_ADDRESS         # towards this backend: ports are counted for each
    return FAILURE_CONNECT_FAILED


cdef Attempt* blank_attempt(Engine* engine) noexcept nogil:
    # Zeroed but for its pick. NULL: out of memory.
    cdef Attempt* attempt = engine.free_attempts
    if attempt != NULL:
        engine.free_attempts = attempt.next
        engine.n_free_attempts -= 1
    else:
        attempt = <Attempt*>malloc(sizeof(Attempt))
        if attempt == NULL:
            return NULL
    memset(attempt, 0, sizeof(Attempt))
    attempt.pick = NO_BACKEND
    return attempt


cdef void put_attempt_back(Engine* engine, Attempt* attempt) noexcept nogil:
    if engine.n_free_attempts >= FREE_ATTEMPTS_KEPT:
        free(attempt)
        return
    attempt.next = engine.free_attempts
    engine.free_attempts = attempt
    engine.n_free_attempts += 1


cdef inline Attempt* open_attempt(Engine* engine, Exchange* exchange) noexcept nogil:
    cdef Attempt* attempt = blank_attempt(engine)
    if attempt != NULL:
        attempt.exchange = exchange
        engine.counters.attempts_opened += 1
    return attempt


cdef inline void free_attempt(Engine* engine, Attempt* attempt) noexcept nogil:
    # Of one that has no connection (any more): gives back what it claimed.
    if unlikely(attempt.watched):
        give_place_back(engine, &attempt.request_place)
        give_place_back(engine, &attempt.pending_place)
        note_good(attempt)
    if attempt.claimed:
        attempt.claimed = False
        release_claim(engine, attempt.backend)
    drop_backend(&engine.backends, attempt.backend)
    attempt.backend = NULL
    engine.counters.attempts_closed += 1
    put_attempt_back(engine, attempt)


cdef void note_answer(Engine* engine, Attempt* attempt, uint32_t status) noexcept nogil:
    # The final head of its response has come to an attempt that is watched.
    if attempt.watched & POOL_NOTES_LATENCY:
        note_row_latency(attempt.backend.shared, now_us(engine) - attempt.began_us, engine.now_ms, attempt.peak)
    if attempt.watched & POOL_PASSIVE_HEALTH:
        if is_counted(attempt.backend, status_condition(status)):
            note_failure(engine, attempt.backend)
        else:
            attempt.is_good = True              # a success when it ends: until then its body can still be cut


cdef void note_good(Attempt* attempt) noexcept nogil:
    # The answer is whole, or at least nothing of it was missing when the client, or we, wanted no more.
    if attempt.is_good:
        attempt.is_good = False
        note_success(attempt.backend)


cdef void blame_backend(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # The current attempt failed: counts against its backend, unless the failure is one of our own.
    cdef Attempt* attempt = exchange.attempt
    if failures[failure].side != SIDE_BACKEND:
        return
    attempt.is_good = False
    attempt.backend.column.failures += 1
    count_backend_failure(attempt.backend, failure)
    if unlikely(attempt.watched & POOL_PASSIVE_HEALTH) and is_counted(attempt.backend, failure_condition(exchange, attempt, failure)):
        note_failure(engine, attempt.backend)


cdef uint32_t none_left(const Exchange* exchange) noexcept nogil:
    # Why no backend could be picked: one that was not tried is full and may be waited for; else the last failure where some were tried, else
    # full, else none eligible.
    cdef uint32_t i
    if exchange.pool.queue != NULL and has_untried(exchange):
        return FAILURE_POOL_FULL
    if exchange.n_tried and exchange.failure:
        return exchange.failure
    for i in range(exchange.pool.n_backends):
        if is_eligible(&exchange.pool.backends[i]):
            return FAILURE_POOL_FULL
    return FAILURE_NO_BACKEND


cdef Connection* take_idle(Engine* engine, Exchange* exchange, Backend* backend) noexcept nogil:
    # A pooled connection, or NULL. It is asked whether it still stands, and is silent, before a request that could not be sent
    # twice, and where it may hold bytes that nobody has read (IO_READABLE): those would answer this request. For the others the
    # replay covers the race, without the system call.
    cdef Connection* connection
    while True:
        connection = cache_take(&backend.idle)
        if connection == NULL:
            return NULL
        note_idle(backend)
        if unlikely(connection.place != NULL):
            unlist_idle(connection)
        connection.state = STATE_EXCHANGE
        if exchange.flags & X_IDEMPOTENT and not connection.io & IO_READABLE:
            return connection
        if still_open(connection):
            connection.io &= ~<uint32_t>IO_READABLE
            return connection
        close_connection(engine, connection, False)


cdef bint choose_tls(Engine* engine, Exchange* exchange, Connection* connection, const Attempt* attempt) noexcept nogil:
    # Whether this connection is to speak TLS its exchange's snapshot says; what the current one says otherwise is not for others to use again.
    cdef uint64_t settings = exchange.pool.tls.settings if exchange.pool.tls != NULL else 0
    if settings != attempt.backend.tls_settings:
        connection.io |= IO_HALF_CLOSED         # keep_idle refuses it
    if settings == 0:
        return True
    connection.codec = engine.tls_backend_codec
    return open_backend_tls(engine, connection, exchange.snapshot, exchange.pool, <uint32_t>attempt.pick)


cdef uint32_t connect_backend(Engine* engine, Exchange* exchange, Attempt* attempt, Connection** made) noexcept nogil:
    # Begins a connection for this attempt, in *made: the caller's, also where a FAILURE_* is returned and it is not NULL. Else 0.
    cdef:
        Backend* backend = attempt.backend
        Backend* place = NULL
        const Codec* codec = backend_codec_of(engine, exchange)
        Connection* connection
        uint32_t failure
        int fd = -1
        int result
        bint is_udp = codec == engine.datagram_backend_codec
    if unlikely(attempt.watched & POOL_LIMITS):
        failure = take_connection_places(engine, exchange.pool, attempt, &place)
        if failure:
            return failure
    result = start_connect(engine, backend.address, backend.address_size, SOCK_DGRAM if is_udp else SOCK_STREAM,
                           &exchange.pool.image.socket, exchange.client, &fd)
    if result != 0 and result != EINPROGRESS:
        give_place_back(engine, &place)
        if is_udp and (result == EAGAIN or result == EADDRINUSE):
            return FAILURE_NO_LOCAL_ADDRESS     # it takes a port when it connects
        return connect_failure(result)
    connection = open_connection(&engine.connections, fd, KIND_BACKEND)
    if connection == NULL:
        give_place_back(engine, &place)
        close(fd)
        return FAILURE_OUT_OF_MEMORY
    connection.place = place
    connection.transport = engine.plain
    connection.codec = codec
    connection.backend = backend
    backend.references += 1
    connection.state = STATE_CONNECTING
    made[0] = connection
    engine.counters.backend_connections_opened += 1
    count_connect(engine, exchange, backend)
    if unlikely(exchange.pool.tls != NULL or backend.tls_settings != 0) and not choose_tls(engine, exchange, connection, attempt):
        return FAILURE_BACKEND_TLS
    if not (watch_input(engine, connection) if is_udp else watch(engine, connection)):
        return FAILURE_OUT_OF_MEMORY
    if unlikely(connection.tls != NULL):
        return 0                                # its socket says when it is connected, a unix socket at once
    if result == 0:
        give_place_back(engine, &attempt.pending_place)     # unix sockets connect at once, and UDP sockets
        note_connected(engine, exchange, attempt)
        if unlikely(exchange.log != NULL):
            log_connected(engine, exchange)
        connection.io |= IO_WRITABLE
        connection.state = STATE_EXCHANGE
    return 0


cdef inline uint32_t open_backend_connection(Engine* engine, Exchange* exchange, Attempt* attempt) noexcept nogil:
    # Starts a connection of our own for this attempt, or a stream on one that is shared. 0 or a FAILURE_*.
    cdef uint32_t failure
    if unlikely(exchange.pool.flags & POOL_OPENINGS):
        if exchange.pool.flags & POOL_SENDS_HEADER:
            failure = connect_backend(engine, exchange, attempt, &attempt.connection)
            return failure if failure else put_header_first(engine, exchange, attempt.connection)
        if not exchange.flags & X_SESSION:
            return open_backend_stream(engine, exchange, attempt)
    return connect_backend(engine, exchange, attempt, &attempt.connection)


cdef uint32_t watch_attempt(Engine* engine, Exchange* exchange, Attempt* attempt) noexcept nogil:
    # What attempts of this pool do more at their beginning. 0, or a FAILURE_*: it may not begin.
    attempt.watched = exchange.pool.flags & POOL_WATCHES
    if attempt.watched & POOL_LIMITS and not take_place(engine, exchange.pool, LIMIT_REQUESTS, &attempt.request_place):
        return FAILURE_REQUESTS_LIMIT
    if attempt.watched & POOL_NOTES_LATENCY:
        attempt.peak = exchange.pool.algorithm == ALGORITHM_PEAK_EWMA
    engine.counters.panic_picks += exchange.pool.in_panic
    return 0


cdef inline int32_t choose(Engine* engine, Exchange* exchange, uint32_t* failure) noexcept nogil:
    # The backend for the next attempt, in the pool; NO_BACKEND with *failure where there is none.
    cdef int32_t index
    if unlikely(exchange.flags & X_STICKY):
        index = pick_sticky(exchange, failure)
        if index != NO_BACKEND or failure[0] != 0:
            return index
    index = pick(exchange.pool, exchange.key, exchange.tried, exchange.n_tried)
    if unlikely(index == NO_BACKEND):
        if exchange.pool.flags & POOL_PANICS and look_for_panic(engine, exchange.pool):     # since the last batch
            index = pick(exchange.pool, exchange.key, exchange.tried, exchange.n_tried)
        if index == NO_BACKEND:
            failure[0] = none_left(exchange)
    return index


cdef uint32_t start_attempt(Engine* engine, Exchange* exchange) noexcept nogil:
    # Picks a backend, claims it and sends the request or starts to connect. 0, or a FAILURE_* with the attempt left for
    # end_attempt (exchange.attempt, NULL when no backend could be picked).
    cdef:
        Attempt* attempt
        PoolBackend* entry
        Connection* connection = NULL
        uint32_t failure = 0
        int32_t index
    while True:
        index = choose(engine, exchange, &failure)
        if unlikely(index == NO_BACKEND):
            return failure
        entry = &exchange.pool.backends[index]
        if likely(claim(engine, entry.row, entry.max_in_flight)):
            break                               # else a sibling took its last place since the pick, which now finds it full
    attempt = open_attempt(engine, exchange)
    if attempt == NULL:
        release_claim(engine, entry.row)
        return FAILURE_OUT_OF_MEMORY
    attempt.claimed = True
    attempt.pick = index
    attempt.began_us = now_us(engine)
    attempt.backend = entry.row
    entry.row.references += 1
    if unlikely(exchange.pool.flags & POOL_WATCHES):
        failure = watch_attempt(engine, exchange, attempt)
        if failure:
            free_attempt(engine, attempt)
            return failure
    exchange.attempt = attempt
    exchange.n_attempts += 1
    if unlikely(exchange.log != NULL):
        log_attempt(engine, exchange)
    if not exchange.flags & X_FRESH:
        connection = take_idle(engine, exchange, entry.row)
    if connection != NULL:
        attempt.connection = connection
        attempt.reused = True
        engine.counters.backend_reused += 1
        count_reuse(engine, exchange, entry.row)
    else:
        failure = open_backend_connection(engine, exchange, attempt)
        if failure:
            return failure
        connection = attempt.connection
    connection.attempt = attempt
    connection.exchange = exchange
    connection.wait = WAIT_UNSET
    if connection.state == STATE_CONNECTING:
        attempt.state = ATTEMPT_CONNECTING
        connection.wait = WAIT_CONNECT
        set_deadline(engine, connection, engine.now_ms + exchange.connect_timeout_ms)
        if unlikely(exchange.flags & X_HEDGE) and exchange.flags & X_BODY_DONE and can_be_hedged(exchange, exchange.connect_timeout_ms):
            connection.wait = WAIT_HEDGE
            set_deadline(engine, connection, engine.now_ms + exchange.pool.image.hedge_after_ms)
        return 0
    return connection.codec.send_request(engine, attempt)


cdef inline void leave_attempt(Engine* engine, Exchange* exchange, bint reuse, bint reset) noexcept nogil:
    # The end of both: the connection goes to the idle cache (`reuse`) or closes, the claim is given back.
    cdef:
        Attempt* attempt = exchange.attempt
        Connection* connection
    if unlikely(exchange.log != NULL):
        log_attempt_end(engine, exchange)
    exchange.attempt = NULL
    connection = attempt.connection
    if connection != NULL:
        attempt.connection = NULL
        connection.attempt = NULL
        connection.exchange = NULL
        if reuse:
            keep_idle(engine, connection)
        else:
            close_connection(engine, connection, reset)
    free_attempt(engine, attempt)


cdef void end_attempt(Engine* engine, Exchange* exchange, bint reuse) noexcept nogil:
    # Gives back the claim, and the connection to the idle cache (`reuse`) or closes it. Safe without an attempt.
    if exchange.attempt != NULL:
        leave_attempt(engine, exchange, reuse, False)


cdef void cut_attempt(Engine* engine, Exchange* exchange) noexcept nogil:
    # As end_attempt, and the backend sees an error.
    if exchange.attempt != NULL:
        leave_attempt(engine, exchange, False, True)
