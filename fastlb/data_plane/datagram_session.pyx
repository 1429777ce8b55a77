"""UDP sessions: a client of a UDP listener and the backend that its datagrams go to, one connected socket of ours between them.

    first datagram -> begin_session -> ask_backend -> datagrams both ways -> silence, enough answers, or a failure

For the rest of the engine a session is what a TCP session is: a client without a descriptor, an exchange without heads, an attempt with a claim.
So picks, caps, health, retries, sticky clients, meters and the line in the log are those of any exchange. What is its own:

- Nothing is ever waited for before a datagram goes out, and none is kept but one: until the backend has answered for the first time, a copy
  of the last datagram, if it is small and copies are few. A backend that turns out not to listen (ICMP says so, to the connected socket) is a
  failed attempt, and the copy goes to the next one.
- X_HEAD_SENT is the end of such attempts: the backend has answered, no answer is expected, or the snapshot is not to be held any longer.
- A session stays with its backend until that is gone, down, ejected or in maintenance; then its client's next datagram finds another one.
- The table of sessions is bounded. A new client of a full one takes the place of the session that has been silent longest. So are all
  sessions of an engine: a forged address costs nothing, and those who connect must find room.
- It never answers by itself: what a client gets is what a backend has sent.

A session's memory is freed with its client's connection: after whatever may end it, it is looked at no more.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastlb.data_plane.access_log cimport log_answer, log_pool
from fastlb.data_plane.attempt cimport blame_backend, connect_failure, end_attempt, note_answer, note_good, start_attempt
from fastlb.data_plane.backend_table cimport drop_backend
from fastlb.data_plane.buffer cimport return_buffer, take_buffer
from fastlb.data_plane.connection cimport adopt_client, close_connection, set_deadline
from fastlb.data_plane.connection_table cimport open_connection
from fastlb.data_plane.connection_id cimport find_named, session_pool
from fastlb.data_plane.datagram cimport count_all, is_passing, send_asked, take_answers
from fastlb.data_plane.datagram_segments cimport last_datagram, take_together
from fastlb.data_plane.datagram_table cimport add_session, find_session, hash_key, refresh_session, remove_session
from fastlb.data_plane.exchange cimport close_exchange, count_reason, drop_retry, end_failed_attempt, open_exchange, refuse
from fastlb.data_plane.failure cimport (FAILURE_FIRST_BYTE_TIMEOUT, FAILURE_NO_LOCAL_ADDRESS, FAILURE_NONE, FAILURE_SESSION_SHED, FAILURE_SESSION_TIMEOUT, failures)
from fastlb.data_plane.meters cimport count_body_in, count_client_out, note_response_head, now_us
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.request_program cimport enter_pool
from fastlb.data_plane.retry cimport note_tried
from fastlb.data_plane.shared_table cimport claim_row, count_workers, release_row
from fastlb.data_plane.sticky cimport begin_sticky, can_return, note_sticky_answer
from fastlb.data_plane.system cimport MSG_DONTWAIT, MSG_NOSIGNAL, errno, load_now, memcpy, send, sockaddr_in6, sockaddr_storage, unlikely
from fastlb.data_plane.transport cimport note_peer
from fastlb.data_plane.types cimport (ANY_RESPONSES, ATTEMPT_ANSWERED, IO_ERROR, IO_READABLE, KIND_CLIENT, NO_BACKEND, NO_INDEX, NODE_ROW,
                                      POOL_STICKY, ROW_DOWN, ROW_EJECTED, ROW_MAINTENANCE, X_FRESH, X_HEAD_SENT, X_REPLAYABLE, X_SESSION, X_STICKY,
                                      Attempt, Backend, Buffer, Codec, Connection, DatagramBatch, DatagramKey, DatagramSession, DatagramTable, Engine,
                                      Exchange, ImageRoute, Listener, PoolBackend)

cdef enum:
    SERVED_STATUS = 200             # nginx's, for logs and meters: the session had answers, or none was expected
    MISSED_STATUS = 504             # no answer, and one was expected
    # After the socket has gone to another worker, or the drain has begun, only answers under way can still come.
    LAST_ANSWERS_MS = 5000
    SHED_PER_CLIENT = 64            # a lowered max_sessions ends the others bit by bit
    COPY_BYTES = 2048               # of a datagram that is kept: what fits one packet, which is most of those that expect an answer
    MOST_COPIES = 1024              # 4 MiB, the smallest buffer being 4 KiB


# ---------------------------------------------------------------------------------------------------------- ends
cdef void end_session(Engine* engine, DatagramSession* session, uint32_t failure) noexcept nogil:
    # In order (FAILURE_NONE), or because of this.
    cdef:
        Connection* client = session.client
        Exchange* exchange = client.exchange
    if exchange != NULL:
        if failure:
            count_reason(engine, exchange, failure)
            if exchange.log != NULL:
                exchange.log.reason = <unsigned char>failure
        if not exchange.flags & X_HEAD_SENT:
            exchange.status = SERVED_STATUS if client.listener.settings.responses == 0 else MISSED_STATUS
            if failures[failure].status:
                exchange.status = failures[failure].status
            exchange.flags |= X_HEAD_SENT       # that is all that it gets
        close_exchange(engine, exchange)
    close_connection(engine, client, False)


cdef void forget_session(Engine* engine, Connection* client, bint reset) noexcept nogil:
    # Its client's connection closes, for whatever reason.
    cdef DatagramSession* session = <DatagramSession*>client.http2
    client.http2 = NULL
    forget_copy(engine, session)
    remove_session(client.listener.datagrams, session)
    engine.n_datagram_sessions -= 1
    engine.counters.udp_sessions_closed += 1
    free(session)


cdef void end_soon(Engine* engine, Listener* listener) noexcept nogil:
    # Its socket is not ours any more: sessions last for the answers under way, however many these are.
    cdef DatagramSession* session = listener.datagrams.oldest
    listener.datagrams.ends_ms = engine.now_ms + LAST_ANSWERS_MS
    while session != NULL:
        if session.client.timer.deadline_ms > listener.datagrams.ends_ms:
            set_deadline(engine, session.client, listener.datagrams.ends_ms)
        session = session.newer


cdef void end_sessions(Engine* engine, Listener* listener) noexcept nogil:
    # The listener is gone. Without sessions, one that has left its socket is gone, too: the last line may free it.
    cdef DatagramTable* table = listener.datagrams
    cdef uint32_t left = table.count
    while left:
        left -= 1
        end_session(engine, table.oldest, FAILURE_NONE)


cdef void refuse_session(Engine* engine, Exchange* exchange, uint32_t failure) noexcept nogil:
    # There is no backend for it; `refuse` has counted why. What its client has sent is lost, as anything may be that goes by UDP: whoever has
    # it at hand counts it.
    cdef Connection* client = exchange.client
    exchange.status = failures[failure].status
    exchange.flags |= X_HEAD_SENT
    close_exchange(engine, exchange)
    close_connection(engine, client, False)


cdef void cut_session(Engine* engine, Exchange* exchange) noexcept nogil:
    # Its backend is taken out of use.
    cdef Connection* client = exchange.client
    close_exchange(engine, exchange)
    close_connection(engine, client, False)


cdef void client_timed_out(Engine* engine, Connection* client) noexcept nogil:
    # Silence, or its time as a whole is over. Who was never answered although that was expected is told apart; it is not held against the
    # backend, whom anybody could make look so by asking nonsense.
    cdef:
        Exchange* exchange = client.exchange
        uint32_t failure = FAILURE_NONE
    if engine.now_ms >= exchange.deadline_ms:
        failure = FAILURE_SESSION_TIMEOUT
    elif exchange.attempt.state != ATTEMPT_ANSWERED and client.listener.settings.responses != 0:
        failure = FAILURE_FIRST_BYTE_TIMEOUT
    end_session(engine, <DatagramSession*>client.http2, failure)


cdef void client_ready(Engine* engine, Connection* client) noexcept nogil:
    return                                      # the engine drains, and left its socket before: end_soon has seen to it


# ---------------------------------------------------------------------------------------------------------- beginnings
cdef uint32_t most_sessions(const Engine* engine) noexcept nogil:
    # At all listeners of this engine: half of its part of the clients, and as each takes two places of the connection table, half of that.
    # The other halves are for those who connect.
    cdef:
        uint32_t most = engine.max_clients, cap = engine.snapshot.header.max_connections, n_workers = count_workers(engine.shared)
    if cap != 0 and n_workers != 0 and cap // n_workers < most:
        most = cap // n_workers
    most = most // 2 if most > 1 else 1
    return most if most < engine.connections.max_open // 4 else <uint32_t>(engine.connections.max_open // 4)


cdef DatagramSession* most_silent(const Engine* engine, const DatagramSession* other_than) noexcept nogil:
    # Of all listeners. NULL: there is none.
    cdef:
        const Listener* listener = engine.listeners
        DatagramSession* session
        DatagramSession* found = NULL
    while listener != NULL:
        if listener.datagrams != NULL:
            session = listener.datagrams.oldest
            if session != NULL and session == other_than:
                session = session.newer
            if session != NULL and (found == NULL or session.heard_ms < found.heard_ms):
                found = session
        listener = listener.next
    return found


cdef bint shed(Engine* engine, DatagramSession* session) noexcept nogil:
    # False: there is none to give way.
    if session == NULL:
        return False
    engine.counters.udp_sessions_shed += 1
    end_session(engine, session, FAILURE_SESSION_SHED)
    return True


cdef bint make_room(Engine* engine, Listener* listener) noexcept nogil:
    # For one more session, and claims its place among the node's clients. False: there is none, and nothing is claimed.
    cdef:
        DatagramTable* table = listener.datagrams
        uint32_t cap = engine.snapshot.header.max_connections, most = most_sessions(engine), n_shed = 0
        bint is_full = table.count >= listener.settings.max_sessions
    while is_full or engine.n_clients >= engine.max_clients or engine.n_datagram_sessions >= most:
        if n_shed == SHED_PER_CLIENT or not shed(engine, table.oldest if is_full else most_silent(engine, NULL)):
            return False
        n_shed += 1
        is_full = table.count >= listener.settings.max_sessions
    if claim_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW, cap):
        return True
    return (shed(engine, most_silent(engine, NULL))
            and claim_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW, cap))


cdef DatagramSession* open_session(Engine* engine, Listener* listener, const DatagramKey* key, uint64_t hash,
                                   const sockaddr_in6* name) noexcept nogil:
    # A blank one in the table, with its client's connection. NULL: no room, or no memory; or the listener takes none any more.
    cdef:
        DatagramSession* session
        Connection* client
        sockaddr_storage address                # aligned, as `name` is not for that type
    if listener.session_route == <uint32_t>NO_INDEX or listener.settings.max_sessions == 0:
        return NULL
    session = <DatagramSession*>calloc(1, sizeof(DatagramSession))
    if session == NULL:
        return NULL
    if not make_room(engine, listener):
        free(session)
        return NULL
    client = open_connection(&engine.connections, -1, KIND_CLIENT)
    if client == NULL and shed(engine, most_silent(engine, NULL)):
        client = open_connection(&engine.connections, -1, KIND_CLIENT)
    if client == NULL:
        release_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW)
        free(session)
        return NULL
    client.transport = engine.plain
    memcpy(&address, name, sizeof(sockaddr_in6))
    note_peer(client, &address)
    client.http2 = session
    session.client = client
    session.key = key[0]
    session.hash = hash
    session.began_ms = session.heard_ms = engine.now_ms
    add_session(listener.datagrams, session)
    engine.n_datagram_sessions += 1
    engine.counters.udp_sessions_opened += 1
    adopt_client(engine, client, listener)
    return session


cdef void exclude(Exchange* exchange, const Backend* row) noexcept nogil:
    # It is not to get this backend again.
    cdef uint32_t i
    for i in range(exchange.pool.n_backends):
        if exchange.pool.backends[i].row == row:
            note_tried(exchange, <int32_t>i)


cdef bint ask_backend(Engine* engine, Exchange* exchange) noexcept nogil:
    # The next attempt, and those after it while they fail. False: none is left, and the session is over. Ports of ours are the same for all
    # backends: without one, another session gives up its own, and another backend is of no use.
    cdef:
        const DatagramSession* session = <const DatagramSession*>exchange.client.http2
        uint32_t failure = start_attempt(engine, exchange)
    if unlikely(failure == FAILURE_NO_LOCAL_ADDRESS) and shed(engine, most_silent(engine, session)):
        end_attempt(engine, exchange, False)
        failure = start_attempt(engine, exchange)
    while unlikely(failure != 0):
        if failure == FAILURE_NO_LOCAL_ADDRESS or not end_failed_attempt(engine, exchange, failure):
            refuse(engine, exchange, failure)
            return False
        failure = start_attempt(engine, exchange)
    return True


cdef bint begin_exchange(Engine* engine, DatagramSession* session, int32_t named, Backend* failed, uint32_t failure) noexcept nogil:
    # A backend of the current snapshot for a session that has none: the one `named` by the client (NO_BACKEND: none), if that can have it; not
    # `failed`, where that is not NULL: `failure` is why. False: the session is over.
    cdef:
        Connection* client = session.client
        Listener* listener = client.listener
        Exchange* exchange = NULL
    if listener.session_route != <uint32_t>NO_INDEX:
        exchange = open_exchange(engine, client)
    if exchange == NULL:
        close_connection(engine, client, False)
        return False
    exchange.began_us = now_us(engine)
    exchange.flags = X_SESSION | X_REPLAYABLE | X_FRESH
    exchange.route = <const ImageRoute*>(exchange.snapshot.image + exchange.snapshot.header.routes.offset) + listener.session_route
    enter_pool(engine, exchange, exchange.route.pool, 0)
    exchange.deadline_ms = session.began_ms + listener.settings.session_timeout_ms if listener.settings.session_timeout_ms else <uint64_t>-1 >> 1
    if unlikely(failed != NULL):
        exclude(exchange, failed)
        exchange.failure = <unsigned char>failure   # what is told where nobody else is there
    if unlikely(exchange.pool.flags & POOL_STICKY):
        begin_sticky(engine, exchange, NULL)
    if unlikely(named != NO_BACKEND):
        exchange.flags |= X_STICKY
        exchange.sticky = named
    if unlikely(exchange.log != NULL):
        log_pool(engine, exchange)
    return ask_backend(engine, exchange)


cdef uint32_t begin_relaying(Engine* engine, Attempt* attempt) noexcept nogil:
    # A socket for this attempt is connected, which says nothing about who is there. Whoever asked for it sends.
    take_together(attempt.connection.fd)
    return 0


cdef bint is_lost(const Backend* backend) noexcept nogil:
    # Whether sessions are to leave this backend: it is not listed any more, or known not to serve. One that drains keeps its own.
    if backend.pool == NULL:
        return True
    return load_now(&backend.shared.state) & (ROW_DOWN | ROW_EJECTED | ROW_MAINTENANCE) != 0 and not backend.pool.in_panic


cdef bint go_on_elsewhere(Engine* engine, DatagramSession* session, uint32_t failure) noexcept nogil:
    # Its backend cannot be reached: another one. False: there is none, and the session is over.
    cdef:
        Exchange* exchange = session.client.exchange
        Backend* failed
    engine.counters.udp_sessions_moved += 1
    session.n_asked = session.n_answered = 0
    if not exchange.flags & X_HEAD_SENT:
        if end_failed_attempt(engine, exchange, failure):
            return ask_backend(engine, exchange)
        refuse(engine, exchange, failure)
        return False
    blame_backend(engine, exchange, failure)
    count_reason(engine, exchange, failure)
    if exchange.log != NULL:
        exchange.log.reason = <unsigned char>failure
    failed = exchange.attempt.backend
    failed.references += 1                      # its exchange may be the last that holds it
    close_exchange(engine, exchange)
    if not begin_exchange(engine, session, NO_BACKEND, failed, failure):
        session = NULL
    drop_backend(&engine.backends, failed)
    return session != NULL


# ---------------------------------------------------------------------------------------------------------- datagrams
cdef inline uint32_t socket_failure(int error) noexcept nogil:
    # What the errno of a connected socket says about its backend; FAILURE_NONE: nothing.
    return FAILURE_NONE if is_passing(error) else connect_failure(error)


cdef inline void forget_copy(Engine* engine, DatagramSession* session) noexcept nogil:
    # Whoever calls this frees it with what else its exchange had for another attempt.
    engine.n_datagram_copies -= session.keeps_copy
    session.keeps_copy = False


cdef void keep_copy(Engine* engine, DatagramSession* session, const DatagramBatch* batch, uint32_t i) noexcept nogil:
    # Of the last datagram of one that was not answered yet. Who forges addresses is not answered either, so copies have a bound. What is not
    # kept is lost if its backend is not there.
    cdef:
        Exchange* exchange = session.client.exchange
        uint32_t size
        const char* data = last_datagram(batch, i, &size)
    if size <= COPY_BYTES and exchange.replay == NULL and engine.n_datagram_copies < MOST_COPIES:
        exchange.replay = take_buffer(&engine.buffers, COPY_BYTES)
        session.keeps_copy = exchange.replay != NULL
        engine.n_datagram_copies += session.keeps_copy
    if exchange.replay == NULL:
        return
    if size > COPY_BYTES:
        forget_copy(engine, session)
        return_buffer(&engine.buffers, exchange.replay)
        exchange.replay = NULL
        return
    memcpy(exchange.replay.data, data, size)
    exchange.replay.end = size


cdef void let_go(Engine* engine, DatagramSession* session, uint32_t status) noexcept nogil:
    # No other backend will be asked in the place of its own: it holds neither its snapshot nor a copy any longer.
    cdef Exchange* exchange = session.client.exchange
    exchange.flags |= X_HEAD_SENT
    exchange.status = <unsigned short>status
    forget_copy(engine, session)
    drop_retry(engine, exchange)


cdef void count_asked(Engine* engine, DatagramSession* session, uint32_t first, uint32_t n) noexcept nogil:
    # These have gone to the backend.
    cdef:
        Exchange* exchange = session.client.exchange
        uint32_t i
        uint64_t size = 0
    for i in range(first, first + n):
        size += engine.datagrams.asked.parts[i].iov_len
    session.n_asked += count_all(&engine.datagrams.asked, first, n)
    exchange.up.moved += size
    count_body_in(engine, exchange, size)
    engine.counters.backend_bytes_out += size
    exchange.attempt.backend.meter.bytes_out += size


cdef void send_on(Engine* engine, DatagramSession* session, uint32_t first, uint32_t n) noexcept nogil:
    # Parts of this client, in engine.datagrams.asked, to its backend; where that cannot be reached, to another one.
    cdef:
        Exchange* exchange
        uint32_t sent, failure
        int error
    while True:
        exchange = session.client.exchange
        if not exchange.flags & X_HEAD_SENT and session.client.listener.settings.responses != 0:
            keep_copy(engine, session, &engine.datagrams.asked, first + n - 1)
        error = send_asked(engine, exchange.attempt.connection.fd, first, n, &sent)
        if sent:
            count_asked(engine, session, first, sent)
            first += sent
            n -= sent
        if error == 0:
            break
        failure = socket_failure(error)
        if failure == FAILURE_NONE:
            engine.counters.datagrams_dropped += count_all(&engine.datagrams.asked, first, 1)
            first += 1
            n -= 1
            if n == 0:
                break
        elif not go_on_elsewhere(engine, session, failure):
            engine.counters.datagrams_dropped += count_all(&engine.datagrams.asked, first, n)
            return
    if unlikely(session.client.listener.settings.responses == 0) and not session.client.exchange.flags & X_HEAD_SENT:
        let_go(engine, session, SERVED_STATUS)  # nothing will come that says more
    set_silence(engine, session.client)


cdef inline void set_silence(Engine* engine, Connection* client) noexcept nogil:
    # Something was heard of it.
    cdef uint64_t until = engine.now_ms + client.listener.settings.silence_ms, ends_ms = client.listener.datagrams.ends_ms
    if unlikely(ends_ms != 0) and until > ends_ms:
        until = ends_ms
    if until > client.exchange.deadline_ms:
        until = client.exchange.deadline_ms
    set_deadline(engine, client, until)


cdef bint is_named_elsewhere(const Engine* engine, const DatagramSession* session, uint32_t i) noexcept nogil:
    # Whether this part names another backend than the session's, and that can have it: whoever had this address before is gone.
    cdef:
        const Listener* listener = session.client.listener
        int32_t named = find_named(engine, listener, &engine.datagrams.asked.parts[i], False)
        const PoolBackend* entry
    if named == NO_BACKEND:
        return False
    entry = &session_pool(engine, listener).backends[named]
    return entry.row != session.client.exchange.attempt.backend and can_return(entry)


cdef void hear_client(Engine* engine, Listener* listener, const DatagramKey* key, const sockaddr_in6* name, uint32_t first,
                      uint32_t n) noexcept nogil:
    # Parts of one client, in engine.datagrams.asked. Where they name a backend, the first one does for all.
    cdef:
        DatagramTable* table = listener.datagrams
        uint64_t hash = hash_key(table, key), size = 0
        DatagramSession* session = find_session(table, key, hash)
        Exchange* exchange
        int32_t named = NO_BACKEND
        uint32_t i
        bint begins = session == NULL
    for i in range(first, first + n):
        size += engine.datagrams.asked.parts[i].iov_len
    engine.counters.client_bytes_in += size
    engine.meters[listener.meter].bytes_in += size
    if begins:
        session = open_session(engine, listener, key, hash, name)
        if session == NULL:
            engine.counters.datagrams_dropped += count_all(&engine.datagrams.asked, first, n)
            return
    else:
        refresh_session(table, session)
        session.heard_ms = engine.now_ms
        exchange = session.client.exchange
        if unlikely(is_lost(exchange.attempt.backend) or (listener.settings.server_id_bytes and is_named_elsewhere(engine, session, first))):
            forget_copy(engine, session)
            close_exchange(engine, exchange)
            session.n_asked = session.n_answered = 0
            begins = True
        elif unlikely(exchange.snapshot != NULL and exchange.snapshot != engine.snapshot):
            let_go(engine, session, MISSED_STATUS)      # as long as it is not answered
    if begins:
        if unlikely(listener.settings.server_id_bytes):
            named = find_named(engine, listener, &engine.datagrams.asked.parts[first], True)
        if not begin_exchange(engine, session, named, NULL, FAILURE_NONE):
            engine.counters.datagrams_dropped += count_all(&engine.datagrams.asked, first, n)
            return
    send_on(engine, session, first, n)


cdef void note_first_answer(Engine* engine, DatagramSession* session) noexcept nogil:
    # Its backend is there.
    cdef:
        Exchange* exchange = session.client.exchange
        Attempt* attempt = exchange.attempt
    exchange.failure = 0
    attempt.state = ATTEMPT_ANSWERED
    note_response_head(engine, exchange, attempt, SERVED_STATUS)
    if unlikely(attempt.watched):
        note_answer(engine, attempt, SERVED_STATUS)
        note_good(attempt)
    if unlikely(exchange.flags & X_STICKY) and exchange.snapshot != NULL:
        note_sticky_answer(engine, exchange, NULL)
    if unlikely(exchange.log != NULL):
        log_answer(engine, exchange, SERVED_STATUS)
    let_go(engine, session, SERVED_STATUS)


cdef void send_kept(Engine* engine, DatagramSession* session) noexcept nogil:
    # The last datagram once more: its backend turned out not to be there, and was replaced.
    cdef:
        Exchange* exchange = session.client.exchange
        Buffer* kept = exchange.replay
        uint32_t failure
    while send(exchange.attempt.connection.fd, kept.data, kept.end, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
        failure = socket_failure(errno)
        if failure == FAILURE_NONE:
            engine.counters.datagrams_dropped += 1
            return
        if not go_on_elsewhere(engine, session, failure):
            engine.counters.datagrams_dropped += 1
            return
    session.n_asked = 1
    engine.counters.backend_bytes_out += kept.end
    exchange.attempt.backend.meter.bytes_out += kept.end


cdef void backend_ready(Engine* engine, Connection* connection) noexcept nogil:
    # Answers, or that it is not there.
    cdef:
        Exchange* exchange = connection.exchange
        Connection* client = exchange.client
        DatagramSession* session = <DatagramSession*>client.http2
        uint32_t n, size, failure, responses = client.listener.settings.responses
        bint more
        int error
    if not connection.io & (IO_READABLE | IO_ERROR):
        return
    connection.io &= ~<uint32_t>IO_ERROR        # the next call says what is wrong
    error = take_answers(engine, client.listener.datagrams, session, connection, &n, &size, &more)
    if unlikely(error != 0):
        failure = socket_failure(error)
        if failure == FAILURE_NONE:
            list_ready(engine, connection)      # the error is gone with the call; what else is there was announced with it
        elif exchange.replay != NULL:
            if go_on_elsewhere(engine, session, failure):
                send_kept(engine, session)
            else:
                engine.counters.datagrams_dropped += 1
        else:
            blame_backend(engine, exchange, failure)
            end_session(engine, session, failure)   # the client's next datagram begins another one
        return
    if n == 0:
        return
    if unlikely(exchange.attempt.state != ATTEMPT_ANSWERED):
        note_first_answer(engine, session)
    session.n_answered += n
    exchange.down.moved += size
    exchange.down.sent += size
    engine.counters.backend_bytes_in += size
    connection.backend.meter.bytes_in += size
    engine.counters.client_bytes_out += size
    count_client_out(engine, exchange, size)
    if responses != <uint32_t>ANY_RESPONSES and responses != 0 and session.n_answered >= session.n_asked * responses:
        end_session(engine, session, FAILURE_NONE)
        return
    refresh_session(client.listener.datagrams, session)
    session.heard_ms = engine.now_ms
    set_silence(engine, client)
    if more:
        list_ready(engine, connection)


cdef void backend_timed_out(Engine* engine, Connection* connection) noexcept nogil:
    return                                      # only its client has a deadline


cdef Codec CLIENT                       # what a session has no heads for is never called
CLIENT.ready = client_ready
CLIENT.timed_out = client_timed_out
CLIENT.send_local = refuse_session
CLIENT.reset = cut_session
CLIENT.close = forget_session

cdef Codec BACKEND
BACKEND.ready = backend_ready
BACKEND.timed_out = backend_timed_out
BACKEND.send_request = begin_relaying


cdef const Codec* datagram_codec() noexcept nogil:
    return &CLIENT


cdef const Codec* datagram_backend_codec() noexcept nogil:
    return &BACKEND
