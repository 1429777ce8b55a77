"""HTTP/1.1 and 1.0 on both sides: reads heads off connections, writes heads to them, and says when a connection may go on.

Two Codec tables: one for clients (requests in, responses out), one for backends. What happens between a request and its
response is the exchange's; moving bodies is the relay's. An idle keep-alive connection holds no buffer: heads are read into
the worker's shared read buffer, and only what cannot be used at once is copied into Connection.input.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastlb.data_plane.access_log cimport log_partial_head, log_request_head
from fastlb.data_plane.buffer cimport append_bytes, return_buffer, take_buffer
from fastlb.data_plane.connection cimport close_connection, limit_idle, set_deadline
from fastlb.data_plane.exchange cimport drop_retry
from fastlb.data_plane.exchange cimport (abandon, begin_exchange, client_overdue, close_exchange, count_reason, fail_attempt, finish_connecting, open_exchange, open_tunnel, progress, refuse, rest_tunnel,
                                         take_response_head)
from fastlb.data_plane.failure cimport (FAILURE_BACKEND_CLOSED, FAILURE_BACKEND_RESET, FAILURE_BETWEEN_BYTES_TIMEOUT,
                                        FAILURE_CLIENT_CLOSED, FAILURE_CLIENT_RESET, FAILURE_CONNECT_TIMEOUT,
                                        FAILURE_FIRST_BYTE_TIMEOUT, FAILURE_HEAD_TIMEOUT, FAILURE_HEAD_TOO_LARGE,
                                        FAILURE_OUT_OF_MEMORY, FAILURE_RESPONSE_HEAD_TOO_LARGE, SIDE_CLIENT, failures)
from fastlb.data_plane.exchange cimport hedge_attempt
from fastlb.data_plane.hedge cimport face_attempt, win_race
from fastlb.data_plane.http1_head cimport HEAD_INCOMPLETE, kept_request, parse_request, parse_response
from fastlb.data_plane.http1_serialise cimport local_body_bytes, write_answer, write_informational, write_local, write_request, write_response
from fastlb.data_plane.meters cimport count_client_in, count_failure
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.relay cimport relay_interject, relay_offer, relay_open, relay_redirect, relay_replay, relay_run
from fastlb.data_plane.system cimport likely, memchr, memcmp, memcpy, prefetch, unlikely
from fastlb.data_plane.types cimport (ATTEMPT_ANSWERED, ATTEMPT_SENT, FIRST_READ_BYTES, FRAME_CHUNKED, FRAME_LENGTH, FRAME_NONE,
                                      FRAME_UNTIL_CLOSE, IO_AGAIN, IO_EOF, IO_ERROR, IO_HALF_CLOSED, IO_READABLE, LINGER_BYTES,
                                      LINGER_MS, MAX_HEAD_BYTES, MAX_HEADERS, RELAY_RUNNING, RELAY_SINK_FAILED, STATE_CONNECTING,
                                      STATE_EXCHANGE, STATE_HEAD, STATE_IDLE, STATE_LINGER, WAIT_BETWEEN_BYTES, WAIT_FIRST_BYTE,
                                      WAIT_HEDGE, WAIT_QUEUE, WAIT_UNSET, WAIT_WRITE, X_BODY_DONE, X_CLOSE_DELIMITED, X_EXPECT, X_HEAD_SENT, X_HTTP_1_0,
                                      X_IS_HEAD, X_KEEP_ALIVE, X_RESEND, X_REUSABLE, X_TUNNEL, Attempt, Buffer, Codec, Connection, Engine, Exchange,
                                      Head, HeadLimits, ListenerSettings, Relay)

cdef enum:
    MAX_EMPTY_BYTES = 16            # of empty lines in one read
    END_IDLE_MS = 1_000             # a drain: how long an idle client that has seen our end is still read from
    READS_PER_TURN = 4              # of a response head; a flood of interim ones must not keep the others waiting

# Response heads: as large as ours may be; a backend that sends more is at fault.
cdef HeadLimits RESPONSE_LIMITS
RESPONSE_LIMITS.max_bytes = MAX_HEAD_BYTES
RESPONSE_LIMITS.max_target_bytes = 0
RESPONSE_LIMITS.max_fields = MAX_HEADERS


# ---------------------------------------------------------------------------------------------------------- client, reading
cdef void client_ready(Engine* engine, Connection* client) noexcept nogil:
    if client.state == STATE_IDLE or client.state == STATE_HEAD:
        read_request(engine, client)
    elif client.state == STATE_EXCHANGE:
        if unlikely(client.io & IO_ERROR) and not client.exchange.flags & X_TUNNEL:
            abandon(engine, client.exchange, FAILURE_CLIENT_RESET)
        elif unlikely(client.wait == WAIT_QUEUE):
            if client.io & IO_HALF_CLOSED and not client.exchange.half_closed:
                abandon(engine, client.exchange, FAILURE_CLIENT_CLOSED)     # it gave up: its turn goes to somebody who is still there
        else:
            progress(engine, client.exchange)
    elif client.state == STATE_LINGER:
        drain_input(engine, client)


cdef inline void expect_request(Engine* engine) noexcept nogil:
    # What a request will be put together in comes into the cache while the kernel receives it.
    prefetch(engine.free_exchanges)
    prefetch(engine.buffers.free[0])
    prefetch(engine.free_attempts)


cdef inline void expect_response(const Exchange* exchange) noexcept nogil:
    # As expect_request, for what a response head ends.
    prefetch(exchange.request_head)
    prefetch(exchange.client)
    prefetch(<const char*>exchange.client + 64)
    prefetch(exchange.attempt)


cdef void read_request(Engine* engine, Connection* client) noexcept nogil:
    # Reads until a head is complete (its exchange then begins), the socket is empty, or the client is at fault.
    cdef:
        char* data
        uint32_t size
        ssize_t n
        bint looked = False
        Buffer* input
    while True:
        input = client.input
        if input != NULL and not looked:
            # Pipelined behind the last exchange, or left by it.
            looked = True
            if use_request_bytes(engine, client, input.data + input.start, input.end - input.start, True, True):
                return
            continue
        if not client.io & IO_READABLE:
            return
        data = engine.read_buffer
        expect_request(engine)
        n = client.transport.receive(engine, client, data, FIRST_READ_BYTES)
        if unlikely(n <= 0):
            if n == IO_AGAIN:
                return
            if client.state == STATE_HEAD:
                engine.counters.reasons[FAILURE_CLIENT_CLOSED if n == 0 else FAILURE_CLIENT_RESET] += 1
                count_failure(engine, client.listener.meter, FAILURE_CLIENT_CLOSED if n == 0 else FAILURE_CLIENT_RESET)
                if unlikely(client.listener.log_set != NULL):
                    log_cut_head(engine, client, FAILURE_CLIENT_CLOSED if n == 0 else FAILURE_CLIENT_RESET)
            close_connection(engine, client, False)
            return
        size = <uint32_t>n
        engine.counters.client_bytes_in += size
        count_client_in(engine, client, size)
        if likely(client.input == NULL):
            if use_request_bytes(engine, client, data, size, False, True):
                return
            continue
        if not append_bytes(&engine.buffers, &client.input, data, size):
            close_connection(engine, client, True)
            return
        input = client.input
        # Parsing again is worth it only when another line has ended, or a limit may be passed.
        if use_request_bytes(engine, client, input.data + input.start, input.end - input.start, True,
                             memchr(data, c"\n", size) != NULL
                             or input.end - input.start > client.listener.settings.head.max_target_bytes):
            return


cdef bint use_request_bytes(Engine* engine, Connection* client, char* data, uint32_t size, bint in_input, bint parse) noexcept nogil:
    # Parses a head from `data` (the start of client.input, or of the shared read buffer). False: more bytes are needed, and
    # these are kept. True: an exchange has begun or the client is being refused; do not touch the client again.
    cdef:
        ListenerSettings* settings = &client.listener.settings
        Head* head = &engine.request
        Exchange* exchange
        uint64_t started_ms = head_started_ms(engine, client)
        uint32_t skipped = 0
        int result = HEAD_INCOMPLETE
    while size - skipped >= 2 and skipped < MAX_EMPTY_BYTES and data[skipped] == c"\r" and data[skipped + 1] == c"\n":
        skipped += 2                            # empty lines before a request line (RFC 9112 section 2.2); more are refused
    if skipped:
        data += skipped
        size -= skipped
        if in_input:
            client.input.start += skipped
    if size == 0:
        if in_input:
            return_buffer(&engine.buffers, client.input)
            client.input = NULL
        return False
    if parse and not (size == 1 and data[0] == c"\r"):
        result = parse_request(head, data, size, &settings.head)
    if unlikely(result < 0) and is_http2_preface(client, data, size):
        engine.http2_client_codec.adopt(engine, client, data, size)
        return True
    if result == HEAD_INCOMPLETE:
        if not in_input and not append_bytes(&engine.buffers, &client.input, data, size):
            close_connection(engine, client, True)
            return True
        if client.state == STATE_IDLE:
            client.state = STATE_HEAD           # from here the whole head has this long, however it trickles
            set_deadline(engine, client, engine.now_ms + settings.head_timeout_ms)
        return False
    exchange = open_exchange(engine, client)
    if unlikely(exchange == NULL):
        close_connection(engine, client, True)
        return True
    if unlikely(exchange.log != NULL):
        exchange.log.started_ms = started_ms
        if result < 0:
            log_partial_head(engine, exchange, data, size)
        else:
            log_request_head(engine, exchange, head)
    if unlikely(result < 0):
        refuse(engine, exchange, <uint32_t>-result)
        return True
    exchange.request_head = take_buffer(&engine.buffers, <uint32_t>result)
    if unlikely(exchange.request_head == NULL):
        refuse(engine, exchange, FAILURE_OUT_OF_MEMORY)
        return True
    memcpy(exchange.request_head.data, data, <size_t>result)
    exchange.request_head.end = <uint32_t>result
    head.data = exchange.request_head.data      # same offsets, bytes that stay
    if in_input:
        client.input.start += <uint32_t>result
        if client.input.start == client.input.end:
            return_buffer(&engine.buffers, client.input)
            client.input = NULL
    elif unlikely(size > <uint32_t>result):
        if not append_bytes(&engine.buffers, &client.input, data + result, size - <uint32_t>result):
            refuse(engine, exchange, FAILURE_OUT_OF_MEMORY)
            return True
    begin_exchange(engine, exchange, head)
    return True


cdef inline bint is_http2_preface(const Connection* client, const char* data, uint32_t size) noexcept nogil:
    # A client that knows beforehand that we speak HTTP/2 (RFC 9113 section 3.4): its first bytes are no request of HTTP/1, on purpose.
    return size >= 16 and client.n_exchanges == 0 and client.listener.settings.http2_streams != 0 and memcmp(data, b"PRI * HTTP/2.0\r\n", 16) == 0


cdef inline uint64_t head_started_ms(Engine* engine, const Connection* client) noexcept nogil:
    # When this head began to arrive: where it came in pieces, its deadline tells.
    cdef uint64_t started_ms = engine.now_ms
    if unlikely(client.state == STATE_HEAD):
        started_ms = client.timer.deadline_ms - client.listener.settings.head_timeout_ms
    return started_ms if started_ms <= engine.now_ms else engine.now_ms


cdef void log_input(Engine* engine, Exchange* exchange, uint64_t started_ms) noexcept nogil:
    # What came of a head that is not whole.
    cdef Buffer* input = exchange.client.input
    exchange.log.started_ms = started_ms
    if input != NULL:
        log_partial_head(engine, exchange, input.data + input.start, input.end - input.start)


cdef void log_cut_head(Engine* engine, Connection* client, uint32_t failure) noexcept nogil:
    # The client left in the middle of a head: an exchange that is only a line in the log.
    cdef:
        uint64_t started_ms = head_started_ms(engine, client)
        Exchange* exchange = open_exchange(engine, client)
    if exchange == NULL:
        return
    if exchange.log != NULL:
        log_input(engine, exchange, started_ms)
        exchange.log.reason = <uint8_t>failure
    close_exchange(engine, exchange)


# ---------------------------------------------------------------------------------------------------------- client, writing
cdef void send_informational(Engine* engine, Exchange* exchange, Head* head) noexcept nogil:
    # Interim responses pass as they come; HTTP/1.0 has none (RFC 9110 section 15.2).
    cdef uint32_t size
    engine.counters.responses_1xx += 1
    if exchange.flags & X_HTTP_1_0:
        return
    size = write_informational(engine, head)
    if unlikely(exchange.log != NULL):
        exchange.log.informational_bytes += size
    if size:
        relay_interject(engine, &exchange.down, exchange.client, size)


cdef bint send_head(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    # The final head, and with it in the same send the body bytes that are here. False: it does not fit.
    cdef:
        uint32_t size, sink_framing = FRAME_LENGTH
        bint chunked = False, keep
        Relay* down = &exchange.down
    if head.framing == FRAME_CHUNKED or head.framing == FRAME_UNTIL_CLOSE:
        if exchange.flags & X_HTTP_1_0:
            exchange.flags = (exchange.flags & ~<uint32_t>X_KEEP_ALIVE) | X_CLOSE_DELIMITED
            sink_framing = FRAME_UNTIL_CLOSE
        else:
            chunked = True
            sink_framing = FRAME_CHUNKED
    if head.framing == FRAME_UNTIL_CLOSE:
        exchange.flags &= ~<uint32_t>X_REUSABLE
    keep = exchange.flags & X_KEEP_ALIVE != 0
    size = write_response(engine, exchange, head, chunked, not keep)
    if unlikely(size == 0):
        return False
    if unlikely(exchange.log != NULL):
        exchange.log.head_bytes = size
    count_status(engine, head.status)
    relay_open(down, exchange, exchange.attempt.connection, exchange.client, head.framing, sink_framing, head.content_length)
    relay_offer(engine, down, size, body, body_size)
    if down.state == RELAY_RUNNING:
        relay_run(engine, down)
    return True


cdef void count_status(Engine* engine, uint32_t status) noexcept nogil:
    if status < 300:
        engine.counters.responses_2xx += 1
    elif status < 400:
        engine.counters.responses_3xx += 1
    elif status < 500:
        engine.counters.responses_4xx += 1
    else:
        engine.counters.responses_5xx += 1


cdef bint settle_keep_alive(Engine* engine, Exchange* exchange) noexcept nogil:
    # Whether the connection goes on behind an answer of our own: only where the request is wholly read.
    cdef Connection* client = exchange.client
    if not exchange.flags & X_BODY_DONE or engine.draining or client.close_after_idle or client.listener.removed:
        exchange.flags &= ~<uint32_t>X_KEEP_ALIVE
    return exchange.flags & X_KEEP_ALIVE != 0


cdef void send_own(Engine* engine, Exchange* exchange, uint32_t size, uint32_t body_size) noexcept nogil:
    # Sends an answer of our own, which stands in engine.write_buffer: `size` bytes, the last `body_size` of them its body.
    cdef:
        Relay* down = &exchange.down
        Connection* client = exchange.client
    exchange.flags |= X_HEAD_SENT
    if unlikely(exchange.log != NULL):
        exchange.log.head_bytes = size - body_size
    relay_open(down, exchange, NULL, client, FRAME_NONE, FRAME_LENGTH, 0)
    if exchange.deadline_ms == 0:
        exchange.deadline_ms = engine.now_ms + client.listener.settings.write_timeout_ms
    relay_offer(engine, down, size, NULL, 0)
    progress(engine, exchange)


cdef void send_local(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # An answer of our own where something failed. The connection goes on only where the request was understood as well.
    cdef uint32_t size
    if failures[failure].side == SIDE_CLIENT:
        exchange.flags &= ~<uint32_t>X_KEEP_ALIVE
    exchange.status = failures[failure].status
    count_status(engine, exchange.status)
    size = write_local(engine, exchange, failure, not settle_keep_alive(engine, exchange))
    send_own(engine, exchange, size, 0 if exchange.flags & X_IS_HEAD else local_body_bytes(failure))


cdef void send_answer(Engine* engine, Exchange* exchange, const Head* request) noexcept nogil:
    # A redirect, or what its route responds.
    cdef uint32_t body_size = 0, size = write_answer(engine, exchange, request, not settle_keep_alive(engine, exchange), &body_size)
    if unlikely(size == 0):
        refuse(engine, exchange, FAILURE_HEAD_TOO_LARGE)    # values of the request made it so
        return
    count_status(engine, exchange.status)
    drop_retry(engine, exchange)
    send_own(engine, exchange, size, body_size)


cdef void end_client(Engine* engine, Exchange* exchange) noexcept nogil:
    # The answer is complete and with the socket. The connection waits for the next request, or closes.
    cdef:
        Connection* client = exchange.client
        bint keep = exchange.flags & X_KEEP_ALIVE and exchange.flags & X_BODY_DONE
        bint unread = not exchange.flags & X_BODY_DONE or failed_before_head(exchange)
    close_exchange(engine, exchange)
    client.n_exchanges += 1
    if likely(keep):
        client.state = STATE_IDLE
        set_deadline(engine, client, engine.now_ms + client.listener.settings.idle_timeout_ms)
        if unlikely(engine.draining):
            limit_idle(engine, client)          # its head went out before the drain began: it has not been told
        if client.input != NULL or client.io & IO_READABLE:
            list_ready(engine, client)          # a pipelined request, or the end of the stream
        return
    if unread or client.input != NULL or client.io & IO_READABLE:
        linger(engine, client, LINGER_MS)
    else:
        close_connection(engine, client, False)


cdef inline bint failed_before_head(const Exchange* exchange) noexcept nogil:
    # A refused head: nothing is known about what follows it.
    return exchange.max_attempts == 0


cdef void reset_client(Engine* engine, Exchange* exchange) noexcept nogil:
    # The answer cannot be completed. Where its framing shows that (a length, a missing last chunk) an orderly end is enough;
    # a body that ends by closing needs a reset, or the client would take it for whole.
    cdef:
        Connection* client = exchange.client
        bint reset = exchange.flags & X_CLOSE_DELIMITED != 0
    close_exchange(engine, exchange)
    close_connection(engine, client, reset)


cdef void linger(Engine* engine, Connection* client, uint32_t at_most_ms) noexcept nogil:
    # Closing with unread input would make the kernel send a reset that can overtake the answer. So: shut our side, read and
    # drop for a bounded time and size, then close.
    return_buffer(&engine.buffers, client.input)
    client.input = NULL
    client.state = STATE_LINGER
    client.drained_bytes = 0
    client.transport.shut_write(engine, client)
    set_deadline(engine, client, engine.now_ms + at_most_ms)
    drain_input(engine, client)


cdef void drain_input(Engine* engine, Connection* client) noexcept nogil:
    cdef ssize_t n
    while client.io & IO_READABLE:
        n = client.transport.receive(engine, client, engine.read_buffer, FIRST_READ_BYTES)
        if n == IO_AGAIN:
            return
        if n <= 0:
            close_connection(engine, client, False)
            return
        engine.counters.client_bytes_in += <uint64_t>n
        count_client_in(engine, client, <uint64_t>n)
        client.drained_bytes += <uint32_t>n
        if client.drained_bytes > LINGER_BYTES:
            close_connection(engine, client, True)
            return
    if client.io & IO_EOF:
        close_connection(engine, client, False)


cdef bint switch_to_tunnel(Engine* engine, Exchange* exchange, Head* head, char* body, uint32_t body_size) noexcept nogil:
    # 101: from here both directions are plain bytes until either side closes; half-close is kept.
    cdef uint32_t size = write_response(engine, exchange, head, False, False)
    if size == 0:
        return False
    if unlikely(exchange.log != NULL):
        exchange.log.head_bytes = size
    open_tunnel(engine, exchange, size, body, body_size)
    return True


# ---------------------------------------------------------------------------------------------------------- client, time
cdef void client_timed_out(Engine* engine, Connection* client) noexcept nogil:
    cdef:
        Exchange* exchange = client.exchange
        uint64_t started_ms
    if client.state == STATE_HEAD:
        started_ms = head_started_ms(engine, client)
        exchange = open_exchange(engine, client)
        if exchange != NULL:
            if unlikely(exchange.log != NULL):
                log_input(engine, exchange, started_ms)
            refuse(engine, exchange, FAILURE_HEAD_TIMEOUT)
            return
    if exchange == NULL:                        # idle or lingering
        if unlikely(engine.draining) and client.state == STATE_IDLE:
            linger(engine, client, END_IDLE_MS)     # it was not told: what it sends just now meets an end and no reset
        else:
            close_connection(engine, client, False)
    else:
        client_overdue(engine, exchange)


# ---------------------------------------------------------------------------------------------------------- backend
cdef uint32_t send_request(Engine* engine, Attempt* attempt) noexcept nogil:
    # Head and what is here of the body, in one send.
    cdef:
        Exchange* exchange = attempt.exchange
        Relay* up = &exchange.up
        Head* head = kept_request(engine, exchange)
        Connection* client = exchange.client
        Buffer* input
        uint32_t size
    size = write_request(engine, exchange, head, attempt.backend)
    if unlikely(size == 0):
        return FAILURE_HEAD_TOO_LARGE
    if unlikely(exchange.flags & X_RESEND):
        relay_redirect(engine, up, attempt.connection)
        relay_replay(engine, up, size)
    else:
        up.sink = attempt.connection
        up.state = RELAY_RUNNING
        input = client.input
        if unlikely(input != NULL and head.framing != FRAME_NONE):
            client.input = NULL
            relay_offer(engine, up, size, input.data + input.start, input.end - input.start)
            return_buffer(&engine.buffers, input)       # what was not this body's is in a new client.input
        else:
            relay_offer(engine, up, size, NULL, 0)
    if up.sent:
        attempt.state = ATTEMPT_SENT
    if unlikely(up.state == RELAY_SINK_FAILED):
        return FAILURE_BACKEND_RESET
    return 0


cdef void backend_ready(Engine* engine, Connection* connection) noexcept nogil:
    cdef:
        char byte
        Exchange* exchange = connection.exchange
    if connection.state == STATE_EXCHANGE:
        face_attempt(exchange, connection.attempt)
        if not exchange.flags & X_HEAD_SENT and connection.io & IO_READABLE:
            if not read_response(engine, connection, exchange):
                return
            connection.wait = WAIT_UNSET        # bytes came, or an interim head: its time starts anew
        progress(engine, exchange)
    elif connection.state == STATE_IDLE:
        # In the idle cache nothing may come: bytes or an end make it unusable.
        if connection.io & IO_READABLE and connection.transport.receive(engine, connection, &byte, 1) != IO_AGAIN:
            close_connection(engine, connection, False)
    elif connection.state == STATE_CONNECTING:
        finish_connecting(engine, connection)


cdef bint read_response(Engine* engine, Connection* connection, Exchange* exchange) noexcept nogil:
    # Reads until the final head is complete. False: the exchange moved on (or ended); do not touch it in this event.
    cdef:
        Head* head = &engine.response
        char* data
        uint32_t size, n_reads = 0
        ssize_t n
        int result
    while connection.io & IO_READABLE:
        if n_reads == READS_PER_TURN:
            list_ready(engine, connection)
            return True
        n_reads += 1
        data = engine.read_buffer
        expect_response(exchange)
        n = connection.transport.receive(engine, connection, data, FIRST_READ_BYTES)
        if unlikely(n <= 0):
            if n == IO_AGAIN:
                return True
            fail_attempt(engine, exchange, FAILURE_BACKEND_CLOSED if n == 0 else FAILURE_BACKEND_RESET)
            return False
        size = <uint32_t>n
        engine.counters.backend_bytes_in += size
        connection.backend.meter.bytes_in += size
        exchange.attempt.state = ATTEMPT_ANSWERED
        if unlikely(exchange.hedge != NULL):
            win_race(engine, exchange)
        if unlikely(connection.input != NULL):
            if not append_bytes(&engine.buffers, &connection.input, data, size):
                fail_attempt(engine, exchange, FAILURE_RESPONSE_HEAD_TOO_LARGE)
                return False
            data = connection.input.data + connection.input.start
            size = connection.input.end - connection.input.start
        while True:
            result = parse_response(head, data, size, &RESPONSE_LIMITS, exchange.method)
            if result <= 0 or head.status >= 200 or head.status == 101:
                break
            if head.status == 100:
                exchange.flags &= ~<uint32_t>X_EXPECT
            exchange.client.codec.send_informational(engine, exchange, head)
            data += result
            size -= <uint32_t>result
        if unlikely(result < 0):
            fail_attempt(engine, exchange, <uint32_t>-result)
            return False
        if likely(result > 0):
            # Bytes may stand in connection.input: it is let go of only after they have been handed on.
            take_response_bytes(engine, connection, exchange, head, data + result, size - <uint32_t>result)
            return False
        if connection.input != NULL:
            connection.input.start = connection.input.end - size
            if size == 0:
                return_buffer(&engine.buffers, connection.input)
                connection.input = NULL
        elif size and not append_bytes(&engine.buffers, &connection.input, data, size):
            fail_attempt(engine, exchange, FAILURE_RESPONSE_HEAD_TOO_LARGE)
            return False
    return True


cdef void take_response_bytes(Engine* engine, Connection* connection, Exchange* exchange, Head* head, char* body,
                              uint32_t body_size) noexcept nogil:
    cdef Buffer* input = connection.input
    connection.input = NULL                     # owned here, so that the relay and the idle cache see a clean connection
    take_response_head(engine, exchange, head, body, body_size)
    return_buffer(&engine.buffers, input)


cdef void backend_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    # The backend is blamed only for what it owes: while the client is slow its timer stands for the exchange as a whole.
    cdef Exchange* exchange = connection.exchange
    if exchange == NULL:
        close_connection(engine, connection, False)     # idle for too long
        return
    face_attempt(exchange, connection.attempt)
    if unlikely(connection.wait == WAIT_HEDGE):
        hedge_attempt(engine, exchange)
    elif connection.state == STATE_CONNECTING:
        fail_attempt(engine, exchange, FAILURE_CONNECT_TIMEOUT)
    elif connection.wait == WAIT_FIRST_BYTE:
        fail_attempt(engine, exchange, FAILURE_FIRST_BYTE_TIMEOUT)
    elif connection.wait == WAIT_BETWEEN_BYTES or connection.wait == WAIT_WRITE:
        if exchange.flags & X_HEAD_SENT:
            count_reason(engine, exchange, FAILURE_BETWEEN_BYTES_TIMEOUT)
        fail_attempt(engine, exchange, FAILURE_BETWEEN_BYTES_TIMEOUT)
    elif exchange.flags & X_TUNNEL:
        rest_tunnel(engine, exchange)
    elif engine.now_ms >= exchange.deadline_ms:
        exchange.client.codec.timed_out(engine, exchange.client)
    else:
        set_deadline(engine, connection, exchange.deadline_ms)


cdef Codec CLIENT
CLIENT.ready = client_ready
CLIENT.timed_out = client_timed_out
CLIENT.send_informational = send_informational
CLIENT.send_head = send_head
CLIENT.send_local = send_local
CLIENT.send_answer = send_answer
CLIENT.end = end_client
CLIENT.reset = reset_client
CLIENT.switch_to_tunnel = switch_to_tunnel

cdef Codec BACKEND
BACKEND.ready = backend_ready
BACKEND.timed_out = backend_timed_out
BACKEND.send_request = send_request


cdef const Codec* http1_client_codec() noexcept nogil:
    return &CLIENT


cdef const Codec* http1_backend_codec() noexcept nogil:
    return &BACKEND
