"""The engine: one epoll set, a ready list, a timer wheel, and pump(), which brings all three on without the GIL.

The outer loop (uvloop) watches the epoll descriptor; pump() handles a bounded batch and returns. What would otherwise be
forgotten while the outer loop sleeps wakes it again: the timerfd and the eventfd are members of the same set, and the eventfd
is written whenever pump() returns with a ready list that is not empty.

Snapshots are swapped between two pumps, so no exchange sees half of one.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.access_log cimport close_log, end_log_batch, prepare_log, read_log_counters, set_listener_log
from fastlb.data_plane.backend_table cimport backend_table_close, backend_table_open, set_queue
from fastlb.data_plane.buffer cimport buffer_pool_close, buffer_pool_open
from fastlb.data_plane.connection cimport adopt_client, close_connection, drop_listener, limit_idle, set_deadline
from fastlb.data_plane.connection_table cimport (bury_connection, connection_at, connection_table_close, connection_table_open, count_slots,
                                                 empty_graveyard, find_connection, open_connection)
from fastlb.data_plane.datagram cimport close_datagram_scratch, leave_socket, open_datagrams, send_answers, take_datagrams
from fastlb.data_plane.datagram_session cimport datagram_backend_codec, datagram_codec, end_sessions
from fastlb.data_plane.exchange cimport close_exchange, fail_attempt, free_ended_exchanges, serve_queues
from fastlb.data_plane.failure cimport FAILURE_BACKEND_DRAINED
from fastlb.data_plane.folded_tunnel cimport FOLD_MS, folded_codec, unfold_tunnel
from fastlb.data_plane.hedge cimport face_attempt
from fastlb.data_plane.http1 cimport http1_backend_codec, http1_client_codec
from fastlb.data_plane.http2_backend cimport http2_backend_codec
from fastlb.data_plane.http2_backend_stream cimport http2_backend_stream_codec, http2_backend_stream_transport
from fastlb.data_plane.http2_client cimport http2_client_codec
from fastlb.data_plane.http2_stream cimport http2_stream_codec, http2_stream_transport
from fastlb.data_plane.mirror cimport mirror_transport
from fastlb.data_plane.mirror_client cimport mirror_codec
from fastlb.data_plane.pipe_pool cimport pipe_pool_close, pipe_pool_open
from fastlb.data_plane.proxy_codec cimport proxy_backend_codec, proxy_codec
from fastlb.data_plane.queue cimport forget_siblings, look_again, refresh_caps, wake_siblings
from fastlb.data_plane.ready_list cimport list_ready, take_ready
from fastlb.data_plane.regex cimport close_regex_scratch
from fastlb.data_plane.meters cimport note_time, read_clock_us
from fastlb.data_plane.shared_table cimport claim_row, column_at, meter_details_at, meters_at, release_row, row_at, worker_at
from fastlb.data_plane.snapshot cimport drop_snapshot, image_text, load_snapshot
from fastlb.data_plane.states cimport NEVER_LOOKED, note_states, watch_states
from fastlb.data_plane.system cimport (CLOCK_MONOTONIC, CLOCK_REALTIME, EFD_CLOEXEC, EFD_NONBLOCK, ENOMEM, EPOLL_CLOEXEC, EPOLL_CTL_ADD,
                                       EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, clock_gettime, close, epoll_create1,
                                       epoll_ctl, epoll_event, epoll_wait, errno, eventfd, getrandom, load_relaxed, memcmp, memcpy, memset, prefetch,
                                       store_word, timespec, unlikely, write)
from fastlb.data_plane.tcp cimport session_backend_codec, session_codec
from fastlb.data_plane.tls cimport TlsSet, close_tls_scratch, set_listener_tls
from fastlb.data_plane.tls_handshake cimport tls_backend_codec, tls_codec
from fastlb.data_plane.timer_wheel cimport arm_wheel, cancel_timer, take_expired, timer_wheel_close, timer_wheel_open
from fastlb.data_plane.transport cimport accept_client, is_datagram_socket, plain_transport, unwatch, watch, watch_listener
from fastlb.data_plane.types cimport (ACCEPT_RETRY_MS, ACCEPTS_PER_EVENT, DEFAULT_PUMP_BUDGET, EVENTS_PER_BATCH, IO_AGAIN, IO_ERROR,
                                      IO_HALF_CLOSED, IO_READABLE, IO_WRITABLE, KIND_BACKEND, KIND_BACKEND_STREAM, KIND_CLIENT, KIND_LISTENER, KIND_MIRROR, MAX_HEAD_BYTES,
                                      NO_INDEX, NODE_ROW, PROTOCOL_AUTO, PROTOCOL_HTTP2, READ_BUFFER_BYTES, STATE_IDLE, WORKER_CLOSED, WORKER_LIVE, WRITE_BUFFER_BYTES, Attempt,
                                      Backend, Connection, Engine, Exchange, Http2Session, ImageBackend, ImageListener, ImageNetwork, ImagePool, ImageText, Listener, Pool,
                                      SharedTable, Snapshot, Socket, Timer, WorkerBlock)
from fastlb.data_plane.types cimport X_KEEP_ALIVE, Codec
from fastlb.data_plane.types cimport MAX_WORKERS, QUEUE_LOOK

cdef enum:
    QUEUE_MORE = 0
    QUEUE_EMPTY = 1
    QUEUE_STOPPED = 2
    EVENTS_PER_CLOCK = 4            # a power of two. Small requests take 4 us an event, and the shortest time told apart is 64
    EXPECTED_LINES = 4              # of an exchange, for the next event: what a response head and its body need
    PUMP_MS = 10                    # a pump returns to the outer loop after this long, whatever its budget
    NOT_A_CONNECTION = -1           # epoll data of timerfd and eventfd: waking up is all they are for


cdef uint64_t clock_ms(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef bint watch_wakeup(Engine* engine, int fd) noexcept nogil:
    # Edge-triggered: each expiry or write wakes once, and nobody has to read the descriptor.
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLET
    event.data.u64 = <uint64_t>NOT_A_CONNECTION
    return epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0


cdef int engine_open(Engine* engine, uint32_t max_clients, uint32_t max_descriptors, int32_t pipes, SharedTable* shared, uint32_t slot,
                     int event_fd) noexcept nogil:
    # 0, or an errno with everything given back. `shared` outlives the engine, and `slot` of it is open (open_worker). `event_fd`: what
    # others write to wake this worker, lent; -1 = the engine makes its own.
    cdef:
        int error
        uint32_t i
    memset(engine, 0, sizeof(Engine))
    engine.epoll_fd = engine.event_fd = engine.timers.fd = -1
    for i in range(MAX_WORKERS):
        engine.siblings[i] = -1
    engine.max_clients = max_clients
    engine.shared = shared
    engine.worker = worker_at(shared, slot)
    engine.counters = &engine.worker.counters
    engine.buffers_before = engine.worker.gauges.buffers_taken
    engine.pipes_before = engine.worker.gauges.pipes_taken
    engine.node = row_at(shared, NODE_ROW)
    engine.node_column = column_at(shared, NODE_ROW, slot)
    engine.meters = meters_at(shared, slot)
    engine.meter_details = meter_details_at(shared, slot)
    engine.now_ms = clock_ms(CLOCK_MONOTONIC)
    engine.wall_offset_ms = clock_ms(CLOCK_REALTIME) - engine.now_ms
    engine.plain = plain_transport()
    engine.client_codec = http1_client_codec()
    engine.backend_codec = http1_backend_codec()
    engine.tls_codec = tls_codec()
    engine.tls_backend_codec = tls_backend_codec()
    engine.proxy_codec = proxy_codec()
    engine.proxy_backend_codec = proxy_backend_codec()
    engine.mirror_codec = mirror_codec()
    engine.mirror_transport = mirror_transport()
    engine.folded_codec = folded_codec()
    engine.fold_after_ms = FOLD_MS
    engine.session_codec = session_codec()
    engine.session_backend_codec = session_backend_codec()
    engine.datagram_codec = datagram_codec()
    engine.datagram_backend_codec = datagram_backend_codec()
    engine.http2_client_codec = http2_client_codec()
    engine.http2_stream_codec = http2_stream_codec()
    engine.http2_stream_transport = http2_stream_transport()
    engine.http2_backend_codec = http2_backend_codec()
    engine.http2_backend_stream_codec = http2_backend_stream_codec()
    engine.http2_backend_stream_transport = http2_backend_stream_transport()
    buffer_pool_open(&engine.buffers)
    engine.read_buffer = <char*>malloc(READ_BUFFER_BYTES)
    engine.write_buffer = <char*>malloc(WRITE_BUFFER_BYTES)
    engine.path = <char*>malloc(MAX_HEAD_BYTES + 8)
    if (engine.read_buffer == NULL or engine.write_buffer == NULL or engine.path == NULL
            or connection_table_open(&engine.connections, max_descriptors) != 0
            or backend_table_open(&engine.backends, shared, slot) != 0
            or pipe_pool_open(&engine.pipes, pipes) != 0
            or timer_wheel_open(&engine.timers, engine.now_ms) != 0):
        engine_close(engine)
        store_word(&engine.worker.use, WORKER_LIVE)     # still the caller's, with nothing claimed
        return ENOMEM
    if getrandom(engine.random, sizeof(engine.random), 0) != <ssize_t>sizeof(engine.random):
        engine.random[0] = engine.now_ms        # cannot happen after boot; ids need only be unique
        engine.random[1] = <uint64_t>engine.read_buffer
    engine.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    engine.event_fd_lent = event_fd >= 0
    engine.event_fd = event_fd if engine.event_fd_lent else eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if engine.epoll_fd < 0 or engine.event_fd < 0 or not watch_wakeup(engine, engine.event_fd) \
            or not watch_wakeup(engine, engine.timers.fd):
        error = errno
        engine_close(engine)
        store_word(&engine.worker.use, WORKER_LIVE)     # still the caller's, with nothing claimed
        return error
    engine.worker.heartbeat_ms = engine.now_ms
    return 0


cdef void engine_close(Engine* engine) noexcept nogil:
    # Ends every exchange and connection and frees everything, so that the counters balance.
    cdef:
        uint32_t i, k
        Connection* connection
        Exchange* exchange
        Attempt* attempt
        Listener* listener
    for i in range(engine.connections.n_slabs):
        for k in range(256):
            connection = &engine.connections.slabs[i][k]
            if connection.kind == KIND_CLIENT or connection.kind == KIND_MIRROR:
                if connection.codec == engine.folded_codec:
                    unfold_tunnel(engine, connection)
                if connection.exchange != NULL:
                    close_exchange(engine, connection.exchange)
                close_connection(engine, connection, False)
    for i in range(engine.connections.n_slabs):
        for k in range(256):
            connection = &engine.connections.slabs[i][k]
            if connection.kind == KIND_BACKEND:
                close_connection(engine, connection, False)
    wake_siblings(engine)                       # what was claimed here is free for those who wait elsewhere
    forget_siblings(engine)
    while engine.listeners != NULL:
        listener = engine.listeners
        forget_listener(engine, listener)
    engine_abort(engine)
    if engine.snapshot != NULL:
        drop_snapshot(engine, engine.snapshot)
        engine.snapshot = NULL
    free_ended_exchanges(engine)
    while engine.free_exchanges != NULL:
        exchange = engine.free_exchanges
        engine.free_exchanges = exchange.next
        free(exchange)
    while engine.free_attempts != NULL:
        attempt = engine.free_attempts
        engine.free_attempts = attempt.next
        free(attempt)
    empty_graveyard(&engine.connections)
    engine_publish(engine)
    buffer_pool_close(&engine.buffers)
    pipe_pool_close(&engine.pipes)
    connection_table_close(&engine.connections)
    close_log(engine)
    close_regex_scratch(engine.regex_scratch)
    engine.regex_scratch = NULL
    close_tls_scratch(engine)
    close_datagram_scratch(engine)
    backend_table_close(&engine.backends)
    cancel_timer(&engine.timers, &engine.queue_timer)
    cancel_timer(&engine.timers, &engine.return_timer)
    timer_wheel_close(&engine.timers)
    free(engine.read_buffer)
    engine.read_buffer = NULL
    free(engine.write_buffer)
    engine.write_buffer = NULL
    free(engine.path)
    engine.path = NULL
    if engine.epoll_fd >= 0:
        close(engine.epoll_fd)
        engine.epoll_fd = -1
    if engine.event_fd >= 0 and not engine.event_fd_lent:
        close(engine.event_fd)
    engine.event_fd = -1
    store_word(&engine.worker.use, WORKER_CLOSED)


# ---------------------------------------------------------------------------------------------------------- accepting
cdef inline bint pauses(const Listener* listener) noexcept nogil:
    return listener.connection != NULL and listener.datagrams == NULL


cdef void pause_accepting(Engine* engine) noexcept nogil:
    # Out of descriptors or at the limit: listeners leave the epoll set, and what waits stays in their queues. UDP listeners go on: they have
    # sessions to serve, and make room for new ones themselves.
    cdef Listener* listener = engine.listeners
    if engine.accept_paused:
        return
    engine.accept_paused = True
    engine.accept_resume_ms = engine.now_ms + ACCEPT_RETRY_MS
    engine.counters.accept_pauses += 1
    while listener != NULL:
        if pauses(listener):
            unwatch(engine, listener.connection)
            set_deadline(engine, listener.connection, engine.accept_resume_ms)
        listener = listener.next


cdef bint is_node_full(const Engine* engine) noexcept nogil:
    cdef uint32_t cap = engine.snapshot.header.max_connections
    return cap != 0 and load_relaxed(&engine.node.in_flight) >= <int64_t>cap


cdef void resume_accepting(Engine* engine) noexcept nogil:
    cdef Listener* listener = engine.listeners
    if engine.n_clients >= engine.max_clients or is_node_full(engine):
        engine.accept_resume_ms = engine.now_ms + ACCEPT_RETRY_MS       # a client of ours that closes resets this
        while listener != NULL:
            if pauses(listener):
                set_deadline(engine, listener.connection, engine.accept_resume_ms)     # one of another worker's tells us nothing
            listener = listener.next
        return
    engine.accept_paused = False
    while listener != NULL:
        if pauses(listener):
            watch_listener(engine, listener.connection)
        listener = listener.next


cdef int accept_some(Engine* engine, Listener* listener, uint32_t most) noexcept nogil:
    # Accepts up to `most` clients. QUEUE_EMPTY, QUEUE_STOPPED (accepting is paused now), or QUEUE_MORE.
    cdef:
        uint32_t _i
        int result
        Connection* client
    for _i in range(most):
        # Claimed before it is accepted: whom the node has no room for stays in the queue.
        if engine.n_clients >= engine.max_clients or not claim_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW,
                                                                   engine.snapshot.header.max_connections):
            pause_accepting(engine)
            return QUEUE_STOPPED
        result = accept_client(engine, listener.connection, &client)
        if result != 0:
            release_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW)
        if result == IO_AGAIN:
            return QUEUE_EMPTY
        if result != 0:
            pause_accepting(engine)
            return QUEUE_STOPPED
        adopt_client(engine, client, listener)
        if not watch(engine, client):
            engine.counters.accept_refused += 1
            close_connection(engine, client, True)
    return QUEUE_MORE


cdef void forget_listener(Engine* engine, Listener* listener) noexcept nogil:
    # Leaves the socket to its owner: out of the epoll set explicitly, because another process may hold its description open.
    cdef Connection* connection = listener.connection
    if connection == NULL:
        return
    if not engine.accept_paused or not pauses(listener):
        unwatch(engine, connection)
    if listener.datagrams != NULL:
        leave_socket(engine, listener)
    listener.connection = NULL
    cancel_timer(&engine.timers, &connection.timer)
    bury_connection(&engine.connections, connection)
    drop_listener(engine, listener)


cdef void take_queue(Engine* engine, Listener* listener) noexcept nogil:
    # Takes in what waits in the accept queue: closing the socket would reset it. Tried during a pause too: its cause may be gone. Of
    # datagrams one batch: others may come without end.
    if listener.datagrams != NULL:
        take_datagrams(engine, listener)
        return
    while accept_some(engine, listener, ACCEPTS_PER_EVENT) == QUEUE_MORE:
        pass


cdef Listener* find_listener(Engine* engine, int fd) noexcept nogil:
    cdef Listener* listener = engine.listeners
    while listener != NULL:
        if listener.connection != NULL and listener.fd == fd:
            return listener
        listener = listener.next
    return NULL


cdef Listener* add_listener(Engine* engine, int fd) noexcept nogil:
    # NULL: out of memory.
    cdef:
        Listener* listener = <Listener*>calloc(1, sizeof(Listener))
        Connection* connection
    if listener == NULL:
        return NULL
    connection = open_connection(&engine.connections, fd, KIND_LISTENER)
    if connection == NULL:
        free(listener)
        return NULL
    listener.fd = fd
    if is_datagram_socket(fd) and open_datagrams(engine, listener) != 0:
        bury_connection(&engine.connections, connection)
        free(listener)
        return NULL
    connection.listener = listener
    listener.connection = connection
    listener.references = 1
    listener.next = engine.listeners
    engine.listeners = listener
    if engine.accept_paused and pauses(listener):
        set_deadline(engine, connection, engine.accept_resume_ms)
    elif not watch_listener(engine, connection):
        forget_listener(engine, listener)
        return NULL
    return listener


# ---------------------------------------------------------------------------------------------------------- snapshots
cdef void retire_connections(Engine* engine) noexcept nogil:
    # Backends are spoken to otherwise than before, by (another kind of) TLS or in another version of HTTP: what is idle closes, and what is in use is
    # not used again.
    cdef:
        Connection* connection
        uint64_t settings
        uint32_t index
    for index in range(count_slots(&engine.connections)):
        connection = connection_at(&engine.connections, index)
        if connection.fd < 0 or connection.kind != KIND_BACKEND:
            continue
        settings = connection.tls.settings if connection.tls != NULL else 0
        if settings == connection.backend.tls_settings and (connection.backend.protocol == PROTOCOL_AUTO
                                                            or (connection.http2 != NULL) == (connection.backend.protocol == PROTOCOL_HTTP2)):
            continue
        if connection.state == STATE_IDLE:
            close_connection(engine, connection, False)
        else:
            connection.io |= IO_HALF_CLOSED     # keep_idle refuses it
            if connection.http2 != NULL:
                list_ready(engine, connection)  # perhaps it is idle


cdef void wake_sessions(Engine* engine, const Backend* row) noexcept nogil:
    # No connection of this backend stays idle any more: those of them that are idle end at their turn.
    cdef Http2Session* session = row.sessions
    while session != NULL:
        list_ready(engine, session.connection)
        session = session.next


cdef void adopt_backends(Engine* engine, Snapshot* old, Snapshot* new) noexcept nogil:
    # Running rows take their settings from the new snapshot; rows that only the old one lists let go of their idle connections.
    cdef:
        const ImagePool* pool
        const ImageBackend* image
        Backend* row
        uint64_t tls_settings
        uint32_t i, k
        bint otherwise = False
    if old != NULL:
        for i in range(old.header.backends.count):
            old.backends[i].row.max_idle = 0
            old.backends[i].row.pool = NULL
    image = <const ImageBackend*>(new.image + new.header.backends.offset)
    for i in range(new.n_pools):
        pool = new.pools[i].image
        for k in range(pool.backends.offset, pool.backends.offset + pool.backends.count):
            row = new.backends[k].row
            row.pool = &new.pools[i]
            row.max_idle = pool.max_idle
            row.max_in_flight = image[k].max_in_flight
            set_queue(&engine.backends, row, new.pools[i].queue)
            row.idle_timeout_ms = pool.idle_timeout_ms
            tls_settings = new.pools[i].tls.settings if new.pools[i].tls != NULL else 0
            otherwise |= row.tls_settings != tls_settings
            row.tls_settings = tls_settings
            otherwise |= row.protocol != pool.protocol
            row.protocol = pool.protocol
            row.address_size = image[k].address_size
            memcpy(row.address, image[k].address, sizeof(row.address))
            row.display_size = image[k].display.size if image[k].display.size < sizeof(row.display) else <uint32_t>sizeof(row.display)
            memcpy(row.display, new.image + image[k].display.offset, row.display_size)
    if old != NULL:
        for i in range(old.header.backends.count):
            row = old.backends[i].row
            while row.max_idle == 0 and row.idle.oldest != NULL:
                close_connection(engine, row.idle.oldest, False)
            if row.max_idle == 0 and row.sessions != NULL:
                wake_sessions(engine, row)
    if unlikely(otherwise):
        retire_connections(engine)


cdef void adopt_pools(Snapshot* old, Snapshot* new) noexcept nogil:
    # A pool goes on counting, and with what its retry budget holds, under the same name. Pools keep their order as a rule: the search goes
    # on behind the last one found.
    cdef:
        const ImageText* name
        const ImageText* wanted
        const Pool* before
        uint32_t i, _tried, at = 0
    for i in range(new.n_pools):
        wanted = &new.pools[i].image.name
        for _tried in range(old.n_pools):
            before = &old.pools[at]
            at = at + 1 if at + 1 < old.n_pools else 0
            name = &before.image.name
            if name.size == wanted.size and memcmp(old.image + name.offset, new.image + wanted.offset, name.size) == 0:
                new.pools[i].n_exchanges = before.n_exchanges
                new.pools[i].budget = before.budget
                break


cdef int engine_prepare(Engine* engine, const char* image, size_t size, RegexSet* compiled, TlsSet* tls) noexcept nogil:
    # Takes over a mapped image, and what was compiled of it as load_snapshot does, as what the next commit swaps in, in place of an earlier
    # one. 0, or an error of load_snapshot with the image still the caller's.
    cdef:
        int error = 0
        Snapshot* new = load_snapshot(engine, image, size, compiled, tls, &error)
    if new == NULL:
        return error
    error = prepare_log(engine, new.log_plan)
    if error:
        new.image_size = 0                      # stays the caller's
        drop_snapshot(engine, new)
        return error
    engine_abort(engine)
    engine.prepared = new
    return 0


cdef void engine_abort(Engine* engine) noexcept nogil:
    # Lets go of what was prepared, if anything was.
    if engine.prepared != NULL:
        drop_snapshot(engine, engine.prepared)
        engine.prepared = NULL


cdef int check_sockets(const Snapshot* snapshot, const Socket* sockets, uint32_t n_sockets) noexcept nogil:
    # -2: a socket names a listener that this snapshot does not have.
    cdef uint32_t i
    for i in range(n_sockets):
        if sockets[i].listener >= snapshot.header.listeners.count:
            return -2
    return 0


cdef int add_sockets(Engine* engine, const Socket* sockets, uint32_t n_sockets) noexcept nogil:
    # Begins to accept on those that are new. 0, or an errno with none of them added.
    cdef:
        Listener* listener
        uint32_t i
        int error
    for i in range(n_sockets):
        if find_listener(engine, sockets[i].fd) == NULL and add_listener(engine, sockets[i].fd) == NULL:
            error = errno if errno else ENOMEM
            while i > 0:
                i -= 1
                listener = find_listener(engine, sockets[i].fd)
                if listener != NULL and listener.settings.head.max_bytes == 0:      # no snapshot has given it settings: new
                    forget_listener(engine, listener)
            return error
    return 0


cdef void set_listener_meter(Engine* engine, Listener* listener, uint32_t number) noexcept nogil:
    # Where its connections are counted. Those that are open move to a new meter (another name for the same socket), so that both balance.
    cdef Connection* client = engine.clients
    if number == listener.meter:
        return
    while client != NULL:
        if client.listener == listener:
            engine.meters[listener.meter].closed += 1
            engine.meters[number].opened += 1
        client = client.all_next
    listener.meter = number


cdef void set_opening(Engine* engine, Listener* listener, const ImageListener* image) noexcept nogil:
    # What its clients begin with, and who of them sends headers.
    listener.senders = <const ImageNetwork*>(engine.snapshot.image + engine.snapshot.header.senders.offset) + image.senders.offset
    listener.n_senders = image.senders.count
    if listener.datagrams != NULL:
        listener.opening = listener.codec
    elif listener.settings.proxy_timeout_ms:
        listener.opening = engine.proxy_codec
    else:
        listener.opening = engine.tls_codec if listener.tls != NULL else listener.codec


cdef void set_sessions(Listener* listener, const ImageListener* image) noexcept nogil:
    # Where its TCP sessions go in the current snapshot.
    listener.session_route = image.session_route
    listener.chooses_by_name = image.chooses_by_name
    listener.sni_names = image.sni_names
    listener.sni_others = image.sni_others
    listener.server_ids = image.server_ids


cdef void find_sessions(Engine* engine, Listener* listener) noexcept nogil:
    # The same for a listener whose socket another worker has, or that is bound elsewhere now: its name says where its clients go that have not
    # begun yet. Nowhere, where no listener has that name any more.
    cdef:
        const ImageListener* listeners = <const ImageListener*>(engine.snapshot.image + engine.snapshot.header.listeners.offset)
        uint32_t i
    listener.session_route = NO_INDEX
    listener.chooses_by_name = False
    listener.server_ids.count = 0
    if listener.codec != engine.session_codec:
        return
    for i in range(engine.snapshot.header.listeners.count):
        if listeners[i].name.size == listener.name_size \
                and memcmp(image_text(engine.snapshot, &listeners[i].name), listener.name, listener.name_size) == 0:
            set_sessions(listener, &listeners[i])
            return


cdef void begin_sessions(Engine* engine, const Socket* sockets, uint32_t n_sockets) noexcept nogil:
    # Of sockets that are not among these: clients in their queues, and those that have said whom they want, begin on the snapshot that they
    # came to.
    cdef:
        Listener* listener = engine.listeners
        Connection* client
        Connection* following
        uint32_t i
    while listener != NULL:
        listener.wanted = listener.codec != engine.session_codec
        listener = listener.next
    for i in range(n_sockets):
        find_listener(engine, sockets[i].fd).wanted = True
    listener = engine.listeners
    while listener != NULL:
        if not listener.wanted and listener.connection != NULL:
            take_queue(engine, listener)
        listener = listener.next
    client = engine.clients
    while client != NULL:
        following = client.all_next
        if not client.listener.wanted and client.codec == engine.session_codec and client.exchange == NULL:
            client.io |= IO_READABLE            # it has had no event yet that would tell
            client.codec.ready(engine, client)
        client = following


cdef void dismiss_clients(Engine* engine, const Listener* listener) noexcept nogil:
    # It speaks another protocol from now on: who is idle goes, what runs ends with its exchange. Sessions are no concern of it.
    cdef Connection* client = engine.clients
    while client != NULL:
        if client.listener == listener and client.codec != engine.session_codec and client.codec != engine.folded_codec:
            client.close_after_idle = True
            if client.http2 != NULL:
                list_ready(engine, client)      # it is told with a frame of its own
            elif client.state == STATE_IDLE:
                set_deadline(engine, client, engine.now_ms)
            elif client.exchange != NULL:
                client.exchange.flags &= ~<uint32_t>X_KEEP_ALIVE        # perhaps its head has gone out
        client = client.all_next


cdef void settle_sockets(Engine* engine, const Socket* sockets, uint32_t n_sockets, bint take_queues, int* removed,
                         uint32_t* n_removed) noexcept nogil:
    # Gives the named sockets the settings of the current snapshot and lets go of all others. `take_queues`: their listeners are gone, so
    # the clients that wait there are taken in, and all are told Connection: close. Otherwise another worker has these sockets now.
    cdef:
        const ImageListener* listeners = <const ImageListener*>(engine.snapshot.image + engine.snapshot.header.listeners.offset)
        Listener* listener = engine.listeners
        Listener* following
        const Codec* codec
        uint32_t i
    n_removed[0] = 0
    while listener != NULL:
        if take_queues:
            listener.removed = True
            listener.host_set = 0               # of the snapshot before; what all listeners know stays for its clients
            find_sessions(engine, listener)
        listener.wanted = False
        listener = listener.next
    for i in range(n_sockets):
        listener = find_listener(engine, sockets[i].fd)
        listener.settings = listeners[sockets[i].listener].settings
        listener.name_size = listeners[sockets[i].listener].name.size
        memcpy(listener.name, image_text(engine.snapshot, &listeners[sockets[i].listener].name), listener.name_size)
        listener.host_set = listeners[sockets[i].listener].host_set
        set_sessions(listener, &listeners[sockets[i].listener])
        codec = engine.session_codec if listener.chooses_by_name or listener.session_route != <uint32_t>NO_INDEX else engine.client_codec
        if listener.datagrams != NULL:
            codec = engine.datagram_codec
        if unlikely(listener.codec != codec and listener.codec != NULL):
            dismiss_clients(engine, listener)
        listener.codec = codec
        set_listener_meter(engine, listener, listeners[sockets[i].listener].meter)
        set_listener_log(engine, listener, engine.snapshot, listeners[sockets[i].listener].log_set)
        set_listener_tls(&listener.tls, engine.snapshot, listeners[sockets[i].listener].tls)
        set_opening(engine, listener, &listeners[sockets[i].listener])
        listener.removed = False
        listener.wanted = True
    listener = engine.listeners
    while listener != NULL:
        following = listener.next
        if not listener.wanted and listener.connection != NULL:
            removed[n_removed[0]] = listener.fd
            n_removed[0] += 1
            if take_queues:
                take_queue(engine, listener)    # the snapshot before, of which its senders are, is still there
                following = listener.next       # a new UDP session may have ended the last one of a listener
                if listener.datagrams != NULL:
                    end_sessions(engine, listener)      # it cannot be answered through a socket that is closed
            listener.senders = NULL
            forget_listener(engine, listener)
        elif unlikely(take_queues and not listener.wanted and listener.datagrams != NULL):
            end_sessions(engine, listener)      # their socket went to a sibling earlier, and may be closed now
        listener = following


cdef int engine_commit(Engine* engine, const Socket* sockets, uint32_t n_sockets, int* removed, uint32_t* n_removed) noexcept nogil:
    # Swaps in the prepared snapshot. `sockets`: all that this worker accepts from now on; the clients waiting in the others are taken in
    # first. 0; -1: nothing is prepared; -2: a socket names no listener; or an errno. On failure nothing has changed.
    # `removed` has room for as many descriptors as there are listeners.
    cdef:
        Snapshot* new = engine.prepared
        Snapshot* old = engine.snapshot
        uint64_t one = 1
        int error
    n_removed[0] = 0
    if new == NULL:
        return -1
    if check_sockets(new, sockets, n_sockets) != 0:
        return -2
    engine.now_ms = clock_ms(CLOCK_MONOTONIC)
    error = add_sockets(engine, sockets, n_sockets)
    if error:
        return error
    # From here nothing fails.
    if old != NULL:
        begin_sessions(engine, sockets, n_sockets)
    engine.prepared = NULL
    engine.snapshot = new
    adopt_backends(engine, old, new)
    if old != NULL:
        adopt_pools(old, new)
    watch_states(engine)
    refresh_caps(engine)
    settle_sockets(engine, sockets, n_sockets, True, removed, n_removed)
    if old != NULL:
        drop_snapshot(engine, old)
    empty_graveyard(&engine.connections)
    arm_wheel(&engine.timers, engine.now_ms)
    engine_publish(engine)
    if engine.queue_work or engine.ready_head != NULL:
        write(engine.event_fd, &one, sizeof(one))       # the next batch serves who waits
    return 0


cdef int engine_assign(Engine* engine, const Socket* sockets, uint32_t n_sockets, int* removed, uint32_t* n_removed) noexcept nogil:
    # Accepts from these sockets and no others from now on, on the current snapshot. What waits in the queues of the others stays there:
    # another worker has them now. Results as engine_commit.
    cdef int error
    n_removed[0] = 0
    if engine.snapshot == NULL:
        return -1
    if check_sockets(engine.snapshot, sockets, n_sockets) != 0:
        return -2
    engine.now_ms = clock_ms(CLOCK_MONOTONIC)
    error = add_sockets(engine, sockets, n_sockets)
    if error:
        return error
    settle_sockets(engine, sockets, n_sockets, False, removed, n_removed)
    empty_graveyard(&engine.connections)
    arm_wheel(&engine.timers, engine.now_ms)
    return 0


cdef void engine_drain(Engine* engine, uint32_t idle_grace_ms, int* removed, uint32_t* n_removed) noexcept nogil:
    # Stops accepting for good. Exchanges finish with Connection: close; idle clients may send one more request within the grace.
    cdef:
        Listener* listener = engine.listeners
        Listener* following
    n_removed[0] = 0
    engine.now_ms = clock_ms(CLOCK_MONOTONIC)
    while listener != NULL:
        following = listener.next
        if listener.connection != NULL:
            removed[n_removed[0]] = listener.fd
            n_removed[0] += 1
            take_queue(engine, listener)
            following = listener.next           # a new UDP session may have ended the last one of a listener
            forget_listener(engine, listener)
        listener = following
    engine.draining = True
    limit_idle_clients(engine, idle_grace_ms)
    empty_graveyard(&engine.connections)
    arm_wheel(&engine.timers, engine.now_ms)
    engine_publish(engine)


cdef void engine_end_idle(Engine* engine) noexcept nogil:
    # The drain has taken as long as it may: who is idle sees our end with the next pump.
    engine.now_ms = clock_ms(CLOCK_MONOTONIC)
    limit_idle_clients(engine, 0)
    arm_wheel(&engine.timers, engine.now_ms)


cdef void limit_idle_clients(Engine* engine, uint32_t grace_ms) noexcept nogil:
    cdef:
        Connection* client = engine.clients
        uint64_t one = 1
    engine.drain_idle_grace_ms = grace_ms
    while client != NULL:
        if client.state == STATE_IDLE and client.codec != engine.session_codec:     # sessions begin with their first event
            limit_idle(engine, client)
        if client.http2 != NULL:
            list_ready(engine, client)          # it is told with a frame of its own, whether a request comes or not
        client = client.all_next
    if engine.ready_head != NULL:
        write(engine.event_fd, &one, sizeof(one))


cdef uint32_t engine_cut(Engine* engine, uint32_t row) noexcept nogil:
    # Ends what is in flight at the backend with this row: a local answer where none has begun, else a cut that the client sees. Returns how
    # many exchanges that were; one that is under way at another backend too (a hedge) goes on there. Between two pumps; one has to follow.
    cdef:
        Connection* connection
        Exchange* exchange
        uint32_t n = 0, index
    engine.now_ms = clock_ms(CLOCK_MONOTONIC)
    for index in range(count_slots(&engine.connections)):
        connection = connection_at(&engine.connections, index)
        if connection.kind == KIND_BACKEND and connection.codec == engine.folded_codec and connection.backend.number == row:
            unfold_tunnel(engine, connection)
        if (connection.kind != KIND_BACKEND and connection.kind != KIND_BACKEND_STREAM) or connection.attempt == NULL:
            continue
        if connection.attempt.backend.number == row:
            exchange = connection.exchange
            n += exchange.hedge == NULL
            face_attempt(exchange, connection.attempt)
            fail_attempt(engine, exchange, FAILURE_BACKEND_DRAINED)
    return n


# ---------------------------------------------------------------------------------------------------------- pump
cdef void engine_publish(Engine* engine) noexcept nogil:
    # What is counted elsewhere, into shared memory: once a pump, not once a request.
    cdef:
        WorkerBlock* worker = engine.worker
        uint64_t taken = engine.buffers_before + engine.buffers.taken, returned = engine.buffers_before + engine.buffers.returned
    if engine.log != NULL:
        read_log_counters(engine)
    worker.gauges.buffers_taken = taken
    worker.gauges.buffers_returned = returned
    taken = engine.pipes_before + engine.pipes.taken
    returned = engine.pipes_before + engine.pipes.returned
    worker.gauges.pipes_taken = taken
    worker.gauges.pipes_returned = returned
    worker.gauges.clients = engine.n_clients
    worker.gauges.descriptors = (engine.connections.n_open - engine.n_mirrors - engine.n_streams - engine.n_backend_streams
                                 - engine.n_datagram_sessions)
    worker.gauges.timers = engine.timers.count
    worker.gauges.backend_rows = engine.backends.count
    worker.generation = engine.snapshot.header.generation if engine.snapshot != NULL else 0


cdef inline void expect_connection(Engine* engine, uint64_t handle) noexcept nogil:
    # Its event is the one after the next. The kernel's part of a request leaves little of another's in the cache: what an event will look
    # at is asked for while those before it are handled.
    cdef:
        uint32_t index = <uint32_t>handle
        const char* connection
    if (index >> 8) < engine.connections.n_slabs:
        connection = <const char*>&engine.connections.slabs[index >> 8][index & 255]
        prefetch(connection)
        prefetch(connection + 64)


cdef inline void expect_exchange(Engine* engine, uint64_t handle) noexcept nogil:
    # Its connection's event is the next, and that connection is in the cache by now.
    cdef:
        Connection* connection = find_connection(&engine.connections, handle)
        const char* exchange
        uint32_t line
    if connection == NULL or connection.exchange == NULL:
        return
    exchange = <const char*>connection.exchange
    for line in range(EXPECTED_LINES):
        prefetch(exchange + 64 * line)


cdef inline void handle_event(Engine* engine, uint64_t handle, uint32_t events) noexcept nogil:
    cdef:
        Connection* connection = find_connection(&engine.connections, handle)
        uint32_t io
    if unlikely(connection == NULL):            # a wake-up, or a late event of a closed connection
        if engine.queues != NULL:
            engine.queue_work |= QUEUE_LOOK     # perhaps a sibling tells that a backend is free
        return
    if unlikely(connection.kind == KIND_LISTENER):
        if connection.listener.datagrams != NULL:
            take_datagrams(engine, connection.listener)
        else:
            accept_some(engine, connection.listener, ACCEPTS_PER_EVENT)
        engine.clock_us = 0                     # that was a long one
        return
    io = connection.io
    if events & EPOLLIN:
        io |= IO_READABLE
    if events & EPOLLOUT:
        io |= IO_WRITABLE
    if unlikely(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)):
        io |= IO_HALF_CLOSED | IO_READABLE
        if events & (EPOLLHUP | EPOLLERR):
            io |= IO_ERROR | IO_WRITABLE        # the next call will say what is wrong
    connection.io = io
    connection.codec.ready(engine, connection)


cdef void expire(Engine* engine) noexcept nogil:
    cdef:
        Timer* timer
        Connection* connection
    while True:
        timer = take_expired(&engine.timers, engine.now_ms, &engine.counters.timers_refiled)
        if timer == NULL:
            return
        engine.counters.timers_fired += 1
        if timer == &engine.queue_timer:
            look_again(engine)
            continue
        if timer == &engine.return_timer:
            engine.states_seen = NEVER_LOOKED   # the look that follows brings back who is due
            continue
        connection = <Connection*>timer
        if connection.kind == KIND_LISTENER:
            continue                            # the end of a pause: see end_batch
        connection.codec.timed_out(engine, connection)


cdef inline void end_batch(Engine* engine) noexcept nogil:
    engine.counters.batches += 1
    if unlikely(engine.datagrams != NULL):
        send_answers(engine)
    if engine.connections.graveyard != NULL:
        empty_graveyard(&engine.connections)
    if engine.exchange_graveyard != NULL:
        free_ended_exchanges(engine)
    engine.clock_us = read_clock_us()
    engine.now_ms = engine.clock_us // 1000
    engine.worker.heartbeat_ms = engine.now_ms
    expire(engine)
    note_states(engine)
    if unlikely(engine.queue_work):
        serve_queues(engine)
    if engine.log != NULL:
        end_log_batch(engine)
    if unlikely(engine.accept_paused) and engine.now_ms >= engine.accept_resume_ms:
        resume_accepting(engine)


cdef uint32_t turn_ready(Engine* engine, uint32_t most) noexcept nogil:
    # Gives up to `most` listed connections their turn; those listed again meanwhile wait for the next round.
    cdef:
        Connection* last = engine.ready_tail
        Connection* connection
        uint32_t n = 0
    while n < most:
        connection = take_ready(engine)
        if connection == NULL:
            break
        n += 1
        engine.clock_us = 0
        connection.codec.ready(engine, connection)
        if connection == last:
            break
    engine.counters.ready_turns += n
    return n


cdef uint32_t engine_pump(Engine* engine, uint32_t budget) noexcept nogil:
    # Handles up to `budget` events (0 = the default) and returns how many it handled. Called by the outer loop whenever the
    # epoll descriptor is readable.
    cdef:
        uint32_t handled = 0, room, ready
        uint64_t stop_ms, began_us
        uint64_t one = 1
        int n, i
    if budget == 0:
        budget = DEFAULT_PUMP_BUDGET
    engine.counters.pumps += 1
    end_batch(engine)                           # reads the clock, expires timers
    began_us = engine.clock_us
    if engine.pump_due_us != 0:
        note_time(&engine.worker.lags, began_us - engine.pump_due_us)
        engine.pump_due_us = 0
    engine.wall_offset_ms = clock_ms(CLOCK_REALTIME) - engine.now_ms     # it may be set while we run
    stop_ms = engine.now_ms + PUMP_MS
    while handled < budget:
        room = budget - handled
        if room > EVENTS_PER_BATCH:
            room = EVENTS_PER_BATCH
        n = 0
        if room > 1 or not engine.ready_turn or engine.ready_head == NULL:
            n = epoll_wait(engine.epoll_fd, engine.events, <int>room, 0)
            if n < 0:
                n = 0
            for i in range(n):
                if not i & (EVENTS_PER_CLOCK - 1):
                    engine.clock_us = 0
                if i + 2 < n:
                    expect_connection(engine, engine.events[i + 2].data.u64)
                if i + 1 < n:
                    expect_exchange(engine, engine.events[i + 1].data.u64)
                handle_event(engine, engine.events[i].data.u64, engine.events[i].events)
            engine.counters.events += <uint64_t>n
            engine.ready_turn = True
        ready = 0
        if engine.ready_head != NULL and (room > 1 or n == 0):
            ready = turn_ready(engine, room)
            engine.ready_turn = False
        end_batch(engine)
        handled += <uint32_t>n + ready
        if n + ready == 0 or engine.now_ms >= stop_ms:
            break
    note_time(&engine.worker.pumps, engine.clock_us - began_us)
    if engine.ready_head != NULL or engine.queue_work:
        write(engine.event_fd, &one, sizeof(one))
        engine.pump_due_us = engine.clock_us
    engine.clock_us = 0
    arm_wheel(&engine.timers, engine.now_ms)
    engine_publish(engine)
    return handled
