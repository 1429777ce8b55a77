"""One request with its response: the order of things, from a parsed request head to the last byte of the answer.

    begin_exchange -> start attempt -> (connected) -> request sent -> take_response_head -> progress ... -> end
                       ^  ^     |                             |             |
                       |  +-----|-- fail_attempt, may_retry <-+  drop_answer, for a status to retry
                       |        v
                       +-- wait_in_queue, where the pool is full and has a queue

A slow attempt may get a second one beside it (hedge.pyx): between `hedge` and the first byte of an answer there are two.

An exchange owns its attempt, its two relays, the raw request head and the replayed body bytes while a retry is possible. It
knows codecs only through their table. It holds its snapshot until its response head is sent; what follows (bodies, tunnels)
lives on copied time-outs, so that a tunnel open for days pins no configuration.

After `refuse`, `abandon`, `fail_attempt`, `take_response_head` or `progress` the exchange may be over: callers do not touch
it again in the same event. Ended ones are freed when the batch ends.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free

from fastlb.data_plane.access_log cimport log_answer, log_connected, log_pool, log_response_head, open_log, write_log
from fastlb.data_plane.attempt cimport blame_backend, connect_failure, cut_attempt, end_attempt, note_answer, note_good, start_attempt
from fastlb.data_plane.backend_table cimport drop_backend
from fastlb.data_plane.buffer cimport return_buffer
from fastlb.data_plane.connection cimport close_connection, set_deadline
from fastlb.data_plane.exchange_pool cimport put_exchange_back, take_exchange
from fastlb.data_plane.failure cimport (FAILURE_BACKEND_CLOSED, FAILURE_BACKEND_RESET, FAILURE_BAD_FRAMING, FAILURE_BAD_RESPONSE, FAILURE_BAD_STATUS, FAILURE_BODY_TOO_LARGE,
                                        FAILURE_BODY_TIMEOUT, FAILURE_CLIENT_CLOSED, FAILURE_CLIENT_RESET, FAILURE_CLIENT_WRITE_TIMEOUT, FAILURE_CLOSED_BY_ROUTE,
                                        FAILURE_EXCHANGE_TIMEOUT, FAILURE_OUT_OF_MEMORY, FAILURE_QUEUE_TIMEOUT,
                                        FAILURE_POOL_FULL, FAILURE_SESSION_IDLE, FAILURE_SESSION_TIMEOUT, FAILURE_TRUNCATED, RETRY_NO)
from fastlb.data_plane.folded_tunnel cimport fold_tunnel
from fastlb.data_plane.grpc cimport is_grpc
from fastlb.data_plane.hedge cimport begin_hedge, clear_way, end_rival, face_attempt, lose_race
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.limits cimport give_place_back, give_retry_place_back
from fastlb.data_plane.meters cimport count_backend_failure, count_retry, end_meters, note_connected, note_response_head, now_us
from fastlb.data_plane.mirror cimport open_mirror
from fastlb.data_plane.queue cimport enter_queue, give_way, is_full, leave_queue, must_wait, wake_siblings
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.relay cimport relay_close, relay_flush, relay_offer, relay_open, relay_run
from fastlb.data_plane.request_program cimport OWN_ANSWER, run_program
from fastlb.data_plane.retry cimport (can_be_hedged, can_send_again, end_condition, has_candidate, has_untried, is_stale_reuse, may_retry, note_tried,
                                      status_condition)
from fastlb.data_plane.snapshot cimport drop_snapshot
from fastlb.data_plane.sticky cimport is_bound, begin_sticky, note_sticky_answer
from fastlb.data_plane.system cimport EPIPE, likely, unlikely
from fastlb.data_plane.transport cimport connect_result
from fastlb.data_plane.types cimport (ATTEMPT_ANSWERED, FRAME_CHUNKED, FRAME_LENGTH, FRAME_NONE, FRAME_TUNNEL, FRAME_UNTIL_CLOSE, HEAD_CLOSE, HEAD_EXPECT_CONTINUE,
                                      HEAD_KEEP_ALIVE, HEAD_UPGRADE, HEADER_UPGRADE, IO_ERROR, IO_READABLE, IO_RESET, IO_WRITABLE,
                                      KIND_STREAM, METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_TRACE, NO_PIPE, POOL_STICKY,
                                      RELAY_DONE, RELAY_NO_MEMORY, RELAY_OFF, RELAY_RUNNING, RELAY_SINK_FAILED, RELAY_SOURCE_FAILED,
                                      RELAY_SOURCE_INVALID, RELAY_TOO_LARGE, STATE_EXCHANGE, WAIT_BETWEEN_BYTES, WAIT_BODY, WAIT_EXCHANGE,
                                      WAIT_FIRST_BYTE, WAIT_QUEUE, WAIT_TUNNEL, WAIT_UNSET, WAIT_WRITE, X_BODY_DONE, X_EXPECT, X_FRESH, X_HEAD_SENT,
                                      X_HTTP_1_0, X_IDEMPOTENT, X_IS_HEAD, X_KEEP_ALIVE, X_MIRROR, X_REPLAYABLE, X_RESEND, X_REUSABLE, X_STICKY, X_TUNNEL,
                                      X_UPGRADE, Attempt, Connection, Engine, Exchange, Head, Relay)
from fastlb.data_plane.types cimport STATE_CONNECTING, WAIT_CONNECT, WAIT_HEDGE, X_HEDGE
from fastlb.data_plane.types cimport (QUEUE_GAVE_WAY, QUEUE_LOOK, QUEUE_LOOK_PAST, QUEUE_PRIORITIES, QUEUE_WAKE, X_QUEUED, Backend, ImagePool, Pool,
                                      Queue)
from fastlb.data_plane.types cimport POOL_LIMITS, ROUTE_CLOSES, X_GRPC, X_HOLDS_PLACE, X_RETRY_PLACE, X_SESSION

cdef enum:                          # which way bytes have moved since a deadline was last set
    UP_TAKEN = 1                    # the client sent some of its body
    UP_SENT = 2                     # the backend took some
    DOWN_TAKEN = 4                  # the backend sent some of its answer
    DOWN_SENT = 8                   # the client took some
    MOVED_ALL = 15

cdef enum:
    FREE_EXCHANGES_KEPT = 1024
    CLOSED_STATUS = 444             # nginx's, for the log: closed without an answer
    STARTED_PER_TURN = 64           # out of one queue; then others have their turn
    IDEMPOTENT = (1 << METHOD_GET | 1 << METHOD_HEAD | 1 << METHOD_OPTIONS | 1 << METHOD_TRACE | 1 << METHOD_PUT
                  | 1 << METHOD_DELETE)         # RFC 9110 section 9.2.2


# ---------------------------------------------------------------------------------------------------------- begin and end
cdef Exchange* open_exchange(Engine* engine, Connection* client) noexcept nogil:
    # A blank exchange owned by `client`, on the current snapshot. NULL: out of memory.
    cdef Exchange* exchange = take_exchange(engine)
    if exchange == NULL:
        return NULL
    exchange.client = client
    exchange.snapshot = engine.snapshot
    engine.snapshot.references += 1
    client.exchange = exchange
    client.state = STATE_EXCHANGE
    client.wait = WAIT_UNSET
    if unlikely(client.listener.log_set != NULL):
        open_log(engine, exchange)
    return exchange


cdef void drop_retry(Engine* engine, Exchange* exchange) noexcept nogil:
    # No further attempt is possible: what was kept for one goes, and the snapshot with it.
    if unlikely(exchange.flags & X_HOLDS_PLACE):
        if exchange.flags & X_QUEUED:
            leave_queue(engine, exchange)
        if exchange.flags & X_RETRY_PLACE:
            give_retry_place_back(engine, exchange)
    return_buffer(&engine.buffers, exchange.request_head)
    exchange.request_head = NULL
    return_buffer(&engine.buffers, exchange.replay)
    exchange.replay = NULL
    return_buffer(&engine.buffers, exchange.matched)
    exchange.matched = NULL
    return_buffer(&engine.buffers, exchange.target)
    exchange.target = NULL
    exchange.up.keep = False
    if exchange.snapshot != NULL:
        drop_snapshot(engine, exchange.snapshot)
        exchange.snapshot = NULL
        exchange.route = NULL
        exchange.pool = NULL


cdef void close_exchange(Engine* engine, Exchange* exchange) noexcept nogil:
    # Gives everything back and lets go of the client, which the caller then closes or keeps.
    if unlikely(exchange.hedge != NULL):
        end_rival(engine, exchange)
    end_attempt(engine, exchange, False)
    end_meters(engine, exchange)
    if unlikely(exchange.log != NULL):
        write_log(engine, exchange)
    relay_close(engine, &exchange.up)
    relay_close(engine, &exchange.down)
    drop_retry(engine, exchange)
    if exchange.flags & X_TUNNEL:
        engine.counters.tunnels_closed += 1
    exchange.client.exchange = NULL
    exchange.client = NULL
    engine.counters.exchanges_closed += 1
    put_exchange_back(engine, exchange)


cdef void free_ended_exchanges(Engine* engine) noexcept nogil:
    # At the end of a batch, when no caller up the stack can still look at them. As a rule all of them go on the free list in one piece.
    cdef Exchange* exchange
    if engine.exchange_graveyard == NULL:
        return
    if engine.n_free_exchanges + engine.n_ended_exchanges <= FREE_EXCHANGES_KEPT:
        engine.last_ended_exchange.next = engine.free_exchanges
        engine.free_exchanges = engine.exchange_graveyard
        engine.n_free_exchanges += engine.n_ended_exchanges
        engine.exchange_graveyard = NULL
        engine.n_ended_exchanges = 0
        return
    engine.n_ended_exchanges = 0
    while engine.exchange_graveyard != NULL:
        exchange = engine.exchange_graveyard
        engine.exchange_graveyard = exchange.next
        if engine.n_free_exchanges >= FREE_EXCHANGES_KEPT:
            free(exchange)
            continue
        exchange.next = engine.free_exchanges
        engine.free_exchanges = exchange
        engine.n_free_exchanges += 1


# ---------------------------------------------------------------------------------------------------------- the request
cdef void begin_exchange(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # A request head has been parsed (its bytes are exchange.request_head). Routes it and starts the first attempt.
    cdef:
        uint32_t failure, flags = X_REPLAYABLE | exchange.client.peer.exchange_flags
    if unlikely(exchange.client.io & IO_ERROR):
        abandon(engine, exchange, FAILURE_CLIENT_RESET)     # reset behind its request: nobody waits for the answer
        return
    exchange.began_us = now_us(engine)
    exchange.method = head.method
    if head.method == METHOD_HEAD:
        flags |= X_IS_HEAD
    if head.version == 0:
        flags |= X_HTTP_1_0
        if head.flags & HEAD_KEEP_ALIVE and not head.flags & HEAD_CLOSE:
            flags |= X_KEEP_ALIVE
    elif not head.flags & HEAD_CLOSE:
        flags |= X_KEEP_ALIVE
    if (<uint32_t>IDEMPOTENT >> head.method) & 1:
        flags |= X_IDEMPOTENT
    if head.flags & HEAD_UPGRADE:
        flags |= X_UPGRADE
    if head.framing == FRAME_NONE:
        flags |= X_BODY_DONE
    elif head.flags & HEAD_EXPECT_CONTINUE:
        flags |= X_EXPECT
    exchange.flags = flags
    failure = run_program(engine, exchange, head)
    if unlikely(failure != 0):
        if failure == <uint32_t>OWN_ANSWER:
            answer(engine, exchange, head)
        else:
            refuse(engine, exchange, failure)
        return
    if unlikely(exchange.pool.flags & POOL_STICKY):
        begin_sticky(engine, exchange, head)
    if unlikely(exchange.log != NULL):
        log_pool(engine, exchange)
    relay_open(&exchange.up, exchange, exchange.client, NULL, head.framing, head.framing, head.content_length)
    exchange.up.state = RELAY_OFF               # until there is a connection to send on
    if head.framing != FRAME_NONE:
        exchange.up.keep = True
        if head.framing == FRAME_CHUNKED:
            exchange.up.limit = exchange.max_body_bytes
            if unlikely(exchange.client.kind == KIND_STREAM):
                exchange.up.source_framing = FRAME_UNTIL_CLOSE      # HTTP/2 frames it, and END_STREAM is its end
    start(engine, exchange)


cdef void start(Engine* engine, Exchange* exchange) noexcept nogil:
    # The first attempt, behind those who wait for one already.
    if unlikely(exchange.pool.queue != NULL) and must_wait(engine, exchange):
        wait_in_queue(engine, exchange)
    else:
        started(engine, exchange, start_attempt(engine, exchange))


cdef void started(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # What start_attempt came to: where it failed, others until one is under way, none is left, or there is a queue for a backend.
    while unlikely(failure != 0):
        if failure == FAILURE_POOL_FULL and exchange.pool.queue != NULL:
            wait_in_queue(engine, exchange)
            return
        if not end_failed_attempt(engine, exchange, failure):
            refuse(engine, exchange, failure)
            return
        failure = start_attempt(engine, exchange)
    if exchange.attempt.connection.state == STATE_EXCHANGE:
        request_sent(engine, exchange)
    else:
        await_client(engine, exchange, 0)


cdef void finish_connecting(Engine* engine, Connection* connection) noexcept nogil:
    # An event of a backend's connection that is being made.
    cdef:
        Exchange* exchange = connection.exchange
        int error
    if not connection.io & (IO_WRITABLE | IO_ERROR):
        return
    face_attempt(exchange, connection.attempt)
    error = connect_result(connection) if unlikely(connection.io & IO_ERROR) else 0     # epoll tells a failure as an error, too
    if unlikely(error != 0):
        fail_attempt(engine, exchange, connect_failure(error))
        return
    connected(engine, exchange)
    if connection.state == STATE_EXCHANGE and connection.io & IO_READABLE:
        list_ready(engine, connection)          # its end, or an answer before the question, came in the same event


cdef void connected(Engine* engine, Exchange* exchange) noexcept nogil:
    # The attempt's connection stands: the request goes out.
    cdef uint32_t failure
    exchange.attempt.connection.state = STATE_EXCHANGE
    exchange.attempt.connection.wait = WAIT_UNSET
    note_connected(engine, exchange, exchange.attempt)
    if unlikely(exchange.log != NULL):
        log_connected(engine, exchange)
    if unlikely(exchange.attempt.watched & POOL_LIMITS):
        give_place_back(engine, &exchange.attempt.pending_place)
    if unlikely(exchange.hedge != NULL):
        clear_way(engine, exchange)
    failure = exchange.attempt.connection.codec.send_request(engine, exchange.attempt)
    if failure:
        fail_attempt(engine, exchange, failure)
    else:
        request_sent(engine, exchange)


cdef void request_sent(Engine* engine, Exchange* exchange) noexcept nogil:
    # Head and first body bytes are with the socket (or wait for it).
    if exchange.up.state == RELAY_RUNNING:
        progress(engine, exchange)
    elif settle_up(engine, exchange):
        await_client(engine, exchange, 0)
        await_backend(engine, exchange, 0)


cdef void hedge_attempt(Engine* engine, Exchange* exchange) noexcept nogil:
    # The current attempt has taken as long as the pool waits before it asks another backend. Its own time-out goes on.
    cdef:
        Connection* slow = exchange.attempt.connection
        uint32_t after_ms = exchange.pool.image.hedge_after_ms
    if slow.state == STATE_CONNECTING:
        slow.wait = WAIT_CONNECT
        set_deadline(engine, slow, engine.now_ms + exchange.connect_timeout_ms - after_ms)
    else:
        slow.wait = WAIT_FIRST_BYTE
        set_deadline(engine, slow, engine.now_ms + exchange.first_byte_timeout_ms - after_ms)
    if begin_hedge(engine, exchange) and exchange.attempt.connection.state == STATE_EXCHANGE:
        request_sent(engine, exchange)


# ---------------------------------------------------------------------------------------------------------- waiting
cdef void wait_in_queue(Engine* engine, Exchange* exchange) noexcept nogil:
    # Until a backend is free, for as long as the queue allows and the exchange has. Of the request nothing more is read meanwhile.
    cdef:
        const ImagePool* image = exchange.pool.image
        uint64_t until = engine.now_ms + image.queue_timeout_ms
        uint32_t failure = enter_queue(engine, exchange)
    if failure:
        refuse(engine, exchange, exchange.failure if exchange.n_tried and exchange.failure else failure)
        return
    if exchange.n_attempts != 0 and exchange.started_ms + image.retry_within_ms < until:
        until = exchange.started_ms + image.retry_within_ms      # later it could not begin another attempt
    set_deadline(engine, exchange.client, until if until < exchange.deadline_ms else exchange.deadline_ms)


cdef bint serve_queue(Engine* engine, Queue* queue) noexcept nogil:
    # Starts who waits here and has a backend now, first ones first. False: others had their turn before all were looked at.
    # One that finds no backend speaks for all of its snapshot, unless there are some that it has tried or does not belong to.
    cdef:
        Exchange* exchange
        Exchange* following
        Pool* full = NULL
        uint32_t priority, failure, n_started = 0
    for priority in range(QUEUE_PRIORITIES):
        exchange = queue.lists[priority].first
        while exchange != NULL:
            following = exchange.next
            failure = FAILURE_POOL_FULL
            if exchange.pool != full:
                if n_started == STARTED_PER_TURN:
                    return False
                if give_way(engine, exchange):
                    return True
                failure = start_attempt(engine, exchange)
            if failure != FAILURE_POOL_FULL:
                n_started += 1
                leave_queue(engine, exchange)
                started(engine, exchange, failure)
            elif exchange.n_tried == 0 and not exchange.flags & X_STICKY or is_full(exchange.pool):
                full = exchange.pool
                if exchange.snapshot == engine.snapshot:
                    break                       # as have all behind it
            exchange = following
    return True


cdef void serve_queues(Engine* engine) noexcept nogil:
    # At the end of a batch: what Engine.queue_work asks for.
    cdef:
        Queue* queue = engine.queues
        Queue* following
        Backend* row
        bint finished = True
    if engine.queue_work & (QUEUE_LOOK | QUEUE_LOOK_PAST):
        engine.queue_work &= ~<uint32_t>QUEUE_LOOK
        engine.request.data = NULL              # whoever waited is parsed again
        while queue != NULL:
            following = queue.next
            row = queue.row
            row.references += 1                 # its last waiting exchange may be the last that holds it
            finished = serve_queue(engine, queue) and finished
            drop_backend(&engine.backends, row)
            queue = following
        if engine.queue_work & QUEUE_GAVE_WAY:
            engine.queue_work &= ~<uint32_t>QUEUE_GAVE_WAY
        else:
            engine.gave_way_ms = 0
        if finished:
            engine.queue_work &= ~<uint32_t>QUEUE_LOOK_PAST
        else:
            engine.queue_work |= QUEUE_LOOK
    if engine.queue_work & QUEUE_WAKE:
        wake_siblings(engine)


# ---------------------------------------------------------------------------------------------------------- failures
cdef bint end_failed_attempt(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # Ends the current attempt as failed. True: another one may follow.
    cdef:
        Attempt* attempt = exchange.attempt
        bint again
    if attempt == NULL:
        return False
    exchange.failure = <uint8_t>failure
    if is_stale_reuse(attempt, failure):
        again = can_send_again(exchange, attempt)
        exchange.flags |= X_FRESH               # that backend again, on a connection of our own; it counts as no attempt
        exchange.n_attempts -= 1
        if again:
            engine.counters.replays += 1
    else:
        blame_backend(engine, exchange, failure)
        note_tried(exchange, attempt.pick)
        again = (has_untried(exchange) and not (exchange.flags & X_STICKY and is_bound(exchange))
                 and may_retry(engine, exchange, attempt, end_condition(exchange, attempt, failure)))
        if again:
            engine.counters.retries += 1
            count_retry(engine, exchange, attempt)
    leave_attempt(engine, exchange, False)
    return again


cdef void leave_attempt(Engine* engine, Exchange* exchange, bint reuse) noexcept nogil:
    # Ends the current attempt, so that another one can be given everything from the start.
    if exchange.up.sink != NULL:
        exchange.up.sink = NULL
        exchange.up.state = RELAY_OFF
        exchange.flags |= X_RESEND
    exchange.flags &= ~<uint32_t>X_REUSABLE     # as its head had said
    end_attempt(engine, exchange, reuse)


cdef inline void note_reason(Exchange* exchange, uint32_t failure) noexcept nogil:
    # For the log: why there was no whole answer of a backend.
    if exchange.log != NULL:
        exchange.log.reason = <uint8_t>failure


cdef void fail_attempt(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # The current attempt failed: another one, a local answer, or a visible cut where the answer has begun.
    if exchange.flags & X_HEAD_SENT:
        blame_backend(engine, exchange, failure)
        count_reason(engine, exchange, FAILURE_TRUNCATED)
        note_reason(exchange, failure)
        exchange.client.codec.reset(engine, exchange)
    elif unlikely(exchange.hedge != NULL):
        lose_race(engine, exchange, failure)
    elif end_failed_attempt(engine, exchange, failure):
        started(engine, exchange, start_attempt(engine, exchange))      # it had its turn: it goes before those who wait for theirs
    else:
        refuse(engine, exchange, failure)


cdef void refuse(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # Answers locally. What is left of the request is not read.
    if unlikely(exchange.hedge != NULL):
        end_rival(engine, exchange)
    end_attempt(engine, exchange, False)
    relay_close(engine, &exchange.up)
    if exchange.client.kind == KIND_STREAM and exchange.request_head != NULL and is_grpc(kept_request(engine, exchange)):
        exchange.flags |= X_GRPC                # asked while its head is here
    drop_retry(engine, exchange)
    count_reason(engine, exchange, failure)
    note_reason(exchange, failure)
    exchange.client.codec.send_local(engine, exchange, failure)


cdef void answer(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil:
    # What its route answers by itself, or nothing.
    cdef Connection* client = exchange.client
    if exchange.route.features & ROUTE_CLOSES:
        count_reason(engine, exchange, FAILURE_CLOSED_BY_ROUTE)
        note_reason(exchange, FAILURE_CLOSED_BY_ROUTE)
        exchange.status = CLOSED_STATUS
        close_exchange(engine, exchange)
        close_connection(engine, client, False)
        return
    exchange.status = <uint16_t>exchange.route.status
    exchange.max_attempts = 1                   # the head was understood: what follows it is known
    client.codec.send_answer(engine, exchange, head)


cdef void abandon(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # The client is gone, or no answer makes sense any more: counted, both sides closed.
    cdef Connection* client = exchange.client
    count_reason(engine, exchange, failure)
    note_reason(exchange, failure)
    close_exchange(engine, exchange)
    close_connection(engine, client, True)


# ---------------------------------------------------------------------------------------------------------- the response
cdef void take_response_head(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    # The final response head has been parsed; `body`: what was received behind it. Interim heads do not come here.
    cdef:
        Attempt* attempt = exchange.attempt
        Connection* client = exchange.client
        bint sent
    note_response_head(engine, exchange, attempt, head.status)
    if unlikely(attempt.watched):
        note_answer(engine, attempt, head.status)
    if unlikely(head.status >= 400) and drop_answer(engine, exchange, head, body_size):
        return
    if unlikely(exchange.log != NULL):
        log_response_head(engine, exchange, head)
    if unlikely(head.status == 101):
        # Only what was asked for, only when the request is complete (RFC 9110 section 7.8).
        if (not exchange.flags & X_UPGRADE or exchange.up.state != RELAY_DONE or not head.flags & HEAD_UPGRADE
                or not (head.seen >> HEADER_UPGRADE) & 1):
            fail_attempt(engine, exchange, FAILURE_BAD_RESPONSE)
            return
        note_good(attempt)                      # with its head it is whole; the tunnel may last for days
        exchange.flags |= X_HEAD_SENT | X_TUNNEL
        exchange.flags &= ~<uint32_t>X_KEEP_ALIVE
        exchange.status = 101
        exchange.deadline_ms = <uint64_t>-1 >> 1
        engine.counters.responses_1xx += 1
        engine.counters.tunnels_opened += 1
        if unlikely(exchange.flags & X_STICKY):
            note_sticky_answer(engine, exchange, head)
        if not client.codec.switch_to_tunnel(engine, exchange, head, body, body_size):
            abandon(engine, exchange, FAILURE_OUT_OF_MEMORY)
            return
        drop_retry(engine, exchange)
        progress(engine, exchange)
        return
    if stays_open(head):
        exchange.flags |= X_REUSABLE
    if engine.draining or client.close_after_idle or client.listener.removed:
        exchange.flags &= ~<uint32_t>X_KEEP_ALIVE
    if unlikely(not exchange.flags & X_BODY_DONE):
        # Answered before the request was complete. Its rest may come, be long, or (after Expect) never come: the connection ends
        # with this exchange, and the answer says so.
        exchange.flags &= ~<uint32_t>X_KEEP_ALIVE
    exchange.status = head.status
    if unlikely(exchange.flags & X_STICKY):
        note_sticky_answer(engine, exchange, head)
    sent = client.codec.send_head(engine, exchange, head, body, body_size)
    if unlikely(not sent):
        fail_attempt(engine, exchange, FAILURE_BAD_RESPONSE)
        return
    exchange.flags |= X_HEAD_SENT
    drop_retry(engine, exchange)
    if unlikely(exchange.up.state == RELAY_RUNNING):
        list_ready(engine, attempt.connection)  # room to write may have come in the same event, and no other would tell
    settle(engine, exchange, MOVED_ALL)


cdef bint drop_answer(Engine* engine, Exchange* exchange, const Head* head, uint32_t body_size) noexcept nogil:
    # Whether this answer's status is one for which another backend is asked instead. That begins then: the exchange may be over. Where
    # there is nobody else to ask, or the budget is used up, the client gets the answer as it is.
    cdef:
        Attempt* attempt = exchange.attempt
        uint32_t condition = status_condition(head.status)
        bint whole
    if condition == RETRY_NO or not exchange.pool.image.retry_on & condition:
        return False
    note_tried(exchange, attempt.pick)
    if not has_candidate(exchange) or (exchange.pool.queue != NULL and must_wait(engine, exchange)) \
            or (exchange.flags & X_STICKY and is_bound(exchange)):
        return False
    if not may_retry(engine, exchange, attempt, condition):
        return False
    if unlikely(exchange.log != NULL):
        log_answer(engine, exchange, head.status)
    attempt.backend.column.failures += 1
    count_backend_failure(attempt.backend, FAILURE_BAD_STATUS)
    exchange.failure = FAILURE_BAD_STATUS
    engine.counters.retries += 1
    count_retry(engine, exchange, attempt)
    # What has not come of its body is not waited for: the connection goes.
    whole = body_size == 0 if head.framing == FRAME_NONE else head.framing == FRAME_LENGTH and head.content_length == <int64_t>body_size
    leave_attempt(engine, exchange, whole and exchange.up.state == RELAY_DONE and stays_open(head))
    start(engine, exchange)
    return True


cdef inline bint stays_open(const Head* head) noexcept nogil:
    # Whether the backend keeps its connection after this answer.
    return not head.flags & HEAD_CLOSE and (head.version != 0 or head.flags & HEAD_KEEP_ALIVE)


cdef bint settle_up(Engine* engine, Exchange* exchange) noexcept nogil:
    # What the request's relay came to. False: the exchange is over.
    cdef Relay* up = &exchange.up
    if exchange.flags & X_TUNNEL:
        # settle_tunnel looks at both directions. The socket tells of a reset once, and has told it now: its end is none that may be passed on. Of
        # one that had ended in order before that it tells EPIPE.
        if up.state == RELAY_SINK_FAILED and up.sink != NULL and engine.last_errno != EPIPE:
            up.sink.io |= IO_RESET
        return True
    if up.state == RELAY_DONE:
        if unlikely(exchange.flags & X_MIRROR):
            open_mirror(engine, exchange)
        exchange.flags |= X_BODY_DONE
        return True
    if up.state == RELAY_SINK_FAILED:
        # The backend takes no more. It may have answered before it closed: its side is read to the end.
        if up.sink != NULL:
            up.sink.io |= IO_READABLE
            list_ready(engine, up.sink)
        return True
    if up.state == RELAY_SOURCE_FAILED:
        abandon(engine, exchange, FAILURE_CLIENT_CLOSED)
    elif exchange.flags & X_HEAD_SENT:
        abandon(engine, exchange, FAILURE_BODY_TOO_LARGE if up.state == RELAY_TOO_LARGE else FAILURE_BAD_FRAMING)
    elif up.state == RELAY_TOO_LARGE:
        refuse(engine, exchange, FAILURE_BODY_TOO_LARGE)
    elif up.state == RELAY_SOURCE_INVALID:
        refuse(engine, exchange, FAILURE_BAD_FRAMING)
    else:
        refuse(engine, exchange, FAILURE_OUT_OF_MEMORY)
    return False


cdef inline bint has_failed(Engine* engine, Connection* side, const Relay* outgoing, const Relay* incoming) noexcept nogil:
    # Whether this side of a tunnel was reset, or gone when it was sent to. `outgoing` is what it says, `incoming` what it is told. Where it is
    # not read, its reset shows as IO_ERROR only. An orderly end of both directions sets that too, and of a unix socket any end does: there the
    # socket knows of no error. Streams have no socket, and set it for nothing else.
    if outgoing.state == RELAY_SOURCE_FAILED or incoming.state == RELAY_SINK_FAILED:
        return True
    return (side.io & IO_ERROR and incoming.state != RELAY_DONE and (outgoing.state == RELAY_DONE or is_blocked(engine, outgoing))
            and connect_result(side) != 0)


cdef inline bint has_left(const Connection* client, const Relay* down) noexcept nogil:
    # Whether a client that had been told the end of its stream over TLS has ended without telling its own, as many do: nothing has gone wrong.
    return down.state == RELAY_DONE and client.tls != NULL and client.tls.ended and not client.tls.broken


cdef void pass_last_words(Engine* engine, Relay* relay) noexcept nogil:
    # The source has failed: what it had said before that, as far as the other side takes it now. No end follows.
    if relay.state == RELAY_RUNNING:
        relay.source.io |= IO_READABLE | IO_RESET
        if relay.sink.fd >= 0:
            relay.sink.io |= IO_WRITABLE        # that there is room again may be told by an event behind this one
        relay_run(engine, relay)


cdef void end_tunnel(Engine* engine, Exchange* exchange, uint32_t failure, bint cut_client, bint cut_backend) noexcept nogil:
    # Both connections close, with a reset for whom the other side was cut. `failure`: what a TCP session ended by, if by that.
    cdef Connection* client = exchange.client
    if failure and exchange.flags & X_SESSION:
        # Who asks nothing and waits until the backend has had enough says nothing about it.
        if exchange.down.moved == 0 and (failure == FAILURE_BACKEND_RESET or (failure == FAILURE_BACKEND_CLOSED and exchange.up.sent != 0)):
            blame_backend(engine, exchange, failure)
        count_reason(engine, exchange, failure)
        note_reason(exchange, failure)
    if cut_backend:
        cut_attempt(engine, exchange)
    close_exchange(engine, exchange)
    close_connection(engine, client, cut_client)


cdef void note_session(Engine* engine, Exchange* exchange) noexcept nogil:
    # Of a TCP session whose backend has not spoken yet. It is connected, so no retry is possible, and what was kept for one can go.
    drop_retry(engine, exchange)
    if exchange.down.moved != 0:
        exchange.attempt.state = ATTEMPT_ANSWERED
        note_good(exchange.attempt)             # the session may last for days
    elif exchange.down.state == RELAY_DONE and exchange.up.state == RELAY_RUNNING:
        exchange.failure = FAILURE_BACKEND_CLOSED       # it has ended first, and said nothing


cdef void settle_tunnel(Engine* engine, Exchange* exchange, uint32_t moved) noexcept nogil:
    # A tunnel ends when both directions have, or when one side fails, which the other side then sees as a failure, too. One side's end alone
    # is passed on as a half-close.
    cdef:
        Connection* client = exchange.client
        Connection* backend = exchange.attempt.connection
        Relay* up = &exchange.up
        Relay* down = &exchange.down
        bint is_new = False
    if unlikely(exchange.attempt.state < ATTEMPT_ANSWERED):
        is_new = exchange.snapshot != NULL
        note_session(engine, exchange)
    if unlikely(up.state != RELAY_RUNNING or down.state != RELAY_RUNNING or (client.io | backend.io) & IO_ERROR):
        if has_failed(engine, backend, down, up):
            pass_last_words(engine, down)
            end_tunnel(engine, exchange, FAILURE_BACKEND_RESET, True, False)
            return
        if has_failed(engine, client, up, down):
            pass_last_words(engine, up)
            end_tunnel(engine, exchange, 0 if has_left(client, down) else FAILURE_CLIENT_RESET, False, True)
            return
        if up.state == RELAY_DONE and down.state == RELAY_DONE:
            end_tunnel(engine, exchange, FAILURE_BACKEND_CLOSED if exchange.failure == FAILURE_BACKEND_CLOSED else 0, False, False)
            return
        if (up.state != RELAY_RUNNING and up.state != RELAY_DONE) or (down.state != RELAY_RUNNING and down.state != RELAY_DONE):
            end_tunnel(engine, exchange, FAILURE_OUT_OF_MEMORY, True, True)
            return
    await_client(engine, exchange, moved)       # bytes in either direction keep both sides
    await_backend(engine, exchange, moved)
    if unlikely(is_new) and up.moved == 0 and down.moved == 0:
        fold_tunnel(engine, exchange)           # nobody has anything to say yet: thousands that connect at once take no more than later


cdef void rest_tunnel(Engine* engine, Exchange* exchange) noexcept nogil:
    # Nothing has moved for a while. The client's timer goes on. One that cannot be folded is looked at again when something has moved.
    if not fold_tunnel(engine, exchange):
        set_deadline(engine, exchange.attempt.connection, engine.now_ms + exchange.tunnel_timeout_ms)


cdef void settle(Engine* engine, Exchange* exchange, uint32_t moved) noexcept nogil:
    # What the response's relay came to, once it has started.
    cdef:
        Relay* down = &exchange.down
        Attempt* attempt = exchange.attempt
        bint reuse
    if unlikely(exchange.flags & X_TUNNEL):
        settle_tunnel(engine, exchange, moved)
        return
    if likely(down.source_ended and down.state <= RELAY_DONE) and attempt != NULL:
        # The backend has said everything: it is free, however slowly the client reads.
        # Reused only when the whole request is with its socket: X_BODY_DONE says no more than that the client has sent it.
        reuse = exchange.flags & X_REUSABLE and exchange.up.state == RELAY_DONE and not down.source_extra
        if exchange.up.state != RELAY_DONE:
            relay_close(engine, &exchange.up)
        end_attempt(engine, exchange, reuse)
        down.source = NULL
    if down.state == RELAY_RUNNING:
        await_client(engine, exchange, moved)
        if exchange.attempt != NULL:
            await_backend(engine, exchange, moved)
        return
    if down.state == RELAY_DONE:
        exchange.client.codec.end(engine, exchange)
    elif down.state == RELAY_SINK_FAILED:
        abandon(engine, exchange, FAILURE_CLIENT_RESET)
    elif down.state == RELAY_NO_MEMORY:
        abandon(engine, exchange, FAILURE_OUT_OF_MEMORY)
    else:
        fail_attempt(engine, exchange, FAILURE_TRUNCATED)


cdef void progress(Engine* engine, Exchange* exchange) noexcept nogil:
    # Something changed on either side: move what can be moved.
    cdef:
        Relay* up = &exchange.up
        Relay* down = &exchange.down
        uint64_t up_moved = up.moved, up_sent = up.sent, down_moved = down.moved, down_sent = down.sent
        uint32_t moved = 0
    if up.state == RELAY_RUNNING:
        relay_run(engine, up)
        if up.state != RELAY_RUNNING and not settle_up(engine, exchange):
            return
    if down.state == RELAY_RUNNING:
        relay_run(engine, down)
    elif down.state == RELAY_OFF:
        relay_flush(engine, down)
    if up.moved != up_moved:
        moved |= UP_TAKEN
    if up.sent != up_sent:
        moved |= UP_SENT
    if down.moved != down_moved:
        moved |= DOWN_TAKEN
    if down.sent != down_sent:
        moved |= DOWN_SENT
    if down.state != RELAY_OFF:
        settle(engine, exchange, moved)
        return
    await_client(engine, exchange, moved)
    if exchange.attempt != NULL and exchange.attempt.connection.state == STATE_EXCHANGE:
        await_backend(engine, exchange, moved)


cdef void open_tunnel(Engine* engine, Exchange* exchange, uint32_t prefix_size, char* body, uint32_t body_size) noexcept nogil:
    # Both relays pass plain bytes from here, half-close included. As relay_offer: `prefix_size` bytes in engine.write_buffer go first, then
    # what came behind the head.
    cdef Connection* backend = exchange.attempt.connection
    relay_close(engine, &exchange.up)
    relay_open(&exchange.up, exchange, exchange.client, backend, FRAME_TUNNEL, FRAME_TUNNEL, -1)
    relay_open(&exchange.down, exchange, backend, exchange.client, FRAME_TUNNEL, FRAME_TUNNEL, -1)
    relay_offer(engine, &exchange.down, prefix_size, body, body_size)


# ---------------------------------------------------------------------------------------------------------- deadlines
cdef void client_overdue(Engine* engine, Exchange* exchange) noexcept nogil:
    # The client's deadline passed; what for, its WaitKind says. A tunnel just ends; nobody waits for an answer any more whose client does not read.
    cdef:
        Connection* client = exchange.client
        uint32_t failure
    if exchange.flags & X_TUNNEL:
        # Nobody may take for a whole stream what was cut in its middle: bytes that are here wait for a reader, or more of them were to come.
        if engine.now_ms >= exchange.deadline_ms:
            end_tunnel(engine, exchange, FAILURE_SESSION_TIMEOUT, exchange.down.state != RELAY_DONE, exchange.up.state != RELAY_DONE)
        else:
            end_tunnel(engine, exchange, FAILURE_SESSION_IDLE, is_blocked(engine, &exchange.down), is_blocked(engine, &exchange.up))
        return
    if engine.now_ms >= exchange.deadline_ms:
        failure = FAILURE_EXCHANGE_TIMEOUT
    elif client.wait == WAIT_WRITE:
        failure = FAILURE_CLIENT_WRITE_TIMEOUT
    elif client.wait == WAIT_QUEUE:
        failure = FAILURE_QUEUE_TIMEOUT
    elif client.wait == WAIT_BODY:
        failure = FAILURE_BODY_TIMEOUT
    else:
        set_deadline(engine, client, exchange.deadline_ms)
        return
    if exchange.flags & X_HEAD_SENT or failure == FAILURE_CLIENT_WRITE_TIMEOUT:
        abandon(engine, exchange, failure)
    else:
        refuse(engine, exchange, failure)       # an answer is still possible


# A deadline starts anew when what it waits for has moved, or when it waits for something else; whatever else happens buys no time.
cdef inline bint is_blocked(Engine* engine, const Relay* relay) noexcept nogil:
    # Bytes are here that the sink does not take.
    return relay.pending != NULL or (relay.pipe != NO_PIPE and engine.pipes.pipes[relay.pipe].fill != 0)


cdef inline bint awaits_continue(const Exchange* exchange) noexcept nogil:
    # The client holds its body back until the backend says 100 (Continue): it is the backend that owes something.
    return exchange.flags & X_EXPECT != 0 and exchange.up.moved == 0


cdef void await_client(Engine* engine, Exchange* exchange, uint32_t moved) noexcept nogil:
    cdef:
        Connection* client = exchange.client
        uint64_t when = exchange.deadline_ms
        uint64_t wait = 0
        uint32_t counts = 0
        uint8_t kind = WAIT_EXCHANGE
    if exchange.flags & X_TUNNEL:
        kind = WAIT_TUNNEL
        counts = MOVED_ALL
        wait = exchange.tunnel_timeout_ms
    elif is_blocked(engine, &exchange.down):
        kind = WAIT_WRITE
        counts = DOWN_SENT
        wait = client.listener.settings.write_timeout_ms
    elif exchange.up.state == RELAY_RUNNING and not is_blocked(engine, &exchange.up) and not awaits_continue(exchange):
        kind = WAIT_BODY
        # Both ways at once, a client may have asked once and listen ever since.
        counts = UP_TAKEN | DOWN_SENT if exchange.flags & X_HEAD_SENT else UP_TAKEN
        wait = client.listener.settings.body_timeout_ms
    if kind == client.wait and not moved & counts:
        return
    client.wait = kind
    if wait and engine.now_ms + wait < when:
        when = engine.now_ms + wait
    set_deadline(engine, client, when)


cdef void await_backend(Engine* engine, Exchange* exchange, uint32_t moved) noexcept nogil:
    cdef:
        Connection* backend = exchange.attempt.connection
        uint64_t when = exchange.deadline_ms
        uint32_t counts = 0
        uint8_t kind
        bint sending = exchange.up.state == RELAY_RUNNING and exchange.up.sink == backend
    if exchange.flags & X_TUNNEL:
        kind = WAIT_TUNNEL                      # its silence is the client's to wait for: this one is for memory
        counts = MOVED_ALL
        when = engine.now_ms + engine.fold_after_ms
    elif sending and is_blocked(engine, &exchange.up):
        kind = WAIT_WRITE
        counts = UP_SENT
        when = engine.now_ms + (exchange.between_bytes_timeout_ms if exchange.flags & X_HEAD_SENT else exchange.first_byte_timeout_ms)
    elif exchange.flags & X_HEAD_SENT:
        if exchange.down.state == RELAY_RUNNING and not is_blocked(engine, &exchange.down) and exchange.up.state != RELAY_RUNNING:
            kind = WAIT_BETWEEN_BYTES
            counts = DOWN_TAKEN
            when = engine.now_ms + exchange.between_bytes_timeout_ms
        else:
            kind = WAIT_EXCHANGE                # the client reads slowly, or still sends
    elif sending and not awaits_continue(exchange):
        kind = WAIT_EXCHANGE                    # the client still sends
    elif exchange.attempt.state == ATTEMPT_ANSWERED:
        kind = WAIT_BETWEEN_BYTES               # part of a head, or an interim one
        when = engine.now_ms + exchange.between_bytes_timeout_ms
    else:
        kind = WAIT_FIRST_BYTE
        when = engine.now_ms + exchange.first_byte_timeout_ms
        if unlikely(exchange.flags & X_HEDGE) and exchange.up.state == RELAY_DONE and can_be_hedged(exchange, exchange.first_byte_timeout_ms):
            kind = WAIT_HEDGE
            when = engine.now_ms + exchange.pool.image.hedge_after_ms
    if kind == backend.wait and not moved & counts:
        return
    backend.wait = kind
    set_deadline(engine, backend, when)
