"""Life and end of connections, whatever they carry: the one place that frees what a connection owns.

A connection leaves every list it stands in (ready list, timer wheel, idle cache, the engine's clients) before its descriptor
closes and its slot goes to the graveyard. Closing one never ends an exchange: whoever closes has done that first.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from fastlb.data_plane.access_log cimport drop_listener_log
from fastlb.data_plane.backend_table cimport drop_backend, note_idle
from fastlb.data_plane.buffer cimport return_buffer
from fastlb.data_plane.connection_table cimport bury_connection
from fastlb.data_plane.datagram cimport close_datagrams
from fastlb.data_plane.idle_cache cimport cache_put, cache_remove
from fastlb.data_plane.limits cimport give_place_back, list_idle, take_wanted, unlist_idle
from fastlb.data_plane.meters cimport count_client_closed, count_client_opened
from fastlb.data_plane.proxy_codec cimport drop_proxy_facts
from fastlb.data_plane.ready_list cimport list_ready, unlist_ready
from fastlb.data_plane.shared_table cimport release_row
from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.timer_wheel cimport cancel_timer
from fastlb.data_plane.tls cimport drop_tls
from fastlb.data_plane.transport cimport close_descriptor
from fastlb.data_plane.types cimport (IO_EOF, IO_ERROR, IO_HALF_CLOSED, IO_READABLE, IO_READY_LISTED, IO_SINGLE, KIND_BACKEND, KIND_BACKEND_STREAM, KIND_CLIENT, KIND_STREAM, NODE_ROW,
                                      STATE_CLOSED, STATE_IDLE, Backend, Codec, Connection, Engine, Listener)


cdef void adopt_client(Engine* engine, Connection* client, Listener* listener) noexcept nogil:
    # A freshly accepted client, claimed on the node's row: counted by its listener, on the list of all clients. It must send its first
    # head in time.
    client.listener = listener
    listener.references += 1
    begin_codec(engine, client, listener.opening)
    client.all_next = engine.clients
    client.all_previous = NULL
    if engine.clients != NULL:
        engine.clients.all_previous = client
    engine.clients = client
    engine.n_clients += 1
    engine.counters.clients_opened += 1
    count_client_opened(engine, client)
    client.peer.number = <uint32_t>engine.counters.clients_opened


cdef void begin_codec(Engine* engine, Connection* client, const Codec* codec) noexcept nogil:
    # A client that is new, or whose connection began with something else: it has the time of a head, or what a codec that comes before that
    # of its listener gives it.
    client.codec = codec
    client.state = STATE_IDLE
    set_deadline(engine, client, engine.now_ms + client.listener.settings.head_timeout_ms)
    if unlikely(codec != client.listener.codec):
        codec.adopt(engine, client, NULL, 0)


cdef void stand_for(Connection* connection, const Connection* client) noexcept nogil:
    # A connection without a descriptor (a stream, a mirror) is to backends, logs and templates what this client is. It counts for the listener.
    connection.listener = client.listener
    connection.listener.references += 1
    connection.peer = client.peer
    connection.n_exchanges = client.n_exchanges
    connection.peer_port = client.peer_port
    connection.address_size = client.address_size
    connection.proxy = client.proxy


cdef void drop_listener(Engine* engine, Listener* listener) noexcept nogil:
    cdef Listener** link
    listener.references -= 1
    if listener.references > 0:
        return
    link = &engine.listeners
    while link[0] != listener:
        link = &link[0].next
    link[0] = listener.next
    drop_listener_log(engine, listener)
    if unlikely(listener.datagrams != NULL):
        close_datagrams(engine, listener)
    drop_tls(listener.tls)
    free(listener)


cdef void close_connection(Engine* engine, Connection* connection, bint reset) noexcept nogil:
    # Ends a client, backend, mirror or stream connection; with `reset` the other side sees an error and not an orderly end.
    cdef Backend* backend
    if connection.state == STATE_CLOSED:
        return
    if connection.io & IO_READY_LISTED:
        unlist_ready(engine, connection)
    cancel_timer(&engine.timers, &connection.timer)
    return_buffer(&engine.buffers, connection.input)
    connection.input = NULL
    if connection.kind == KIND_CLIENT:
        if unlikely(connection.http2 != NULL):
            connection.codec.close(engine, connection, reset)
        if connection.all_previous != NULL:
            connection.all_previous.all_next = connection.all_next
        else:
            engine.clients = connection.all_next
        if connection.all_next != NULL:
            connection.all_next.all_previous = connection.all_previous
        engine.n_clients -= 1
        release_row(engine.shared, engine.worker, engine.node, engine.node_column, NODE_ROW)
        engine.counters.clients_closed += 1
        count_client_closed(engine, connection)
        drop_listener(engine, connection.listener)
        connection.listener = NULL
        if unlikely(connection.proxy != NULL):
            drop_proxy_facts(&connection.proxy)
    elif connection.kind == KIND_BACKEND:
        backend = connection.backend
        if unlikely(connection.http2 != NULL):
            connection.codec.close(engine, connection, reset)
        if connection.state == STATE_IDLE:
            cache_remove(&backend.idle, connection)
            note_idle(backend)
        engine.counters.backend_connections_closed += 1
        if unlikely(connection.place != NULL):
            if connection.state == STATE_IDLE:
                unlist_idle(connection)
            take_wanted(connection.place)
            give_place_back(engine, &connection.place)
        connection.backend = NULL
        drop_backend(&engine.backends, backend)
    elif connection.kind == KIND_STREAM:
        connection.codec.close(engine, connection, reset)
        drop_listener(engine, connection.listener)
        connection.listener = NULL
    elif connection.kind == KIND_BACKEND_STREAM:
        connection.codec.close(engine, connection, reset)
    else:
        engine.n_mirrors -= 1
        engine.mirror_bytes -= connection.drained_bytes
        engine.counters.mirrors_closed += 1
        drop_listener(engine, connection.listener)
        connection.listener = NULL
        if connection.proxy != NULL:
            drop_proxy_facts(&connection.proxy)
    if unlikely(connection.transport.close != NULL):
        connection.transport.close(engine, connection, reset)
    if connection.fd >= 0:
        close_descriptor(connection, reset)
    bury_connection(&engine.connections, connection)
    if engine.accept_paused:
        engine.accept_resume_ms = 0             # a descriptor is free: accepting may go on


cdef void keep_idle(Engine* engine, Connection* connection) noexcept nogil:
    # A backend connection whose exchange is over: into the idle cache of its backend, or closed where that is full.
    cdef Backend* backend = connection.backend
    connection.exchange = NULL
    connection.attempt = NULL
    if backend.idle.count >= backend.max_idle or connection.io & (IO_HALF_CLOSED | IO_ERROR | IO_EOF | IO_SINGLE) or connection.input != NULL:
        close_connection(engine, connection, False)
        return
    if unlikely(connection.place != NULL):
        if take_wanted(connection.place):
            give_place_back(engine, &connection.place)
            close_connection(engine, connection, False)
            return
        list_idle(connection)
    connection.state = STATE_IDLE
    cache_put(&backend.idle, connection)
    note_idle(backend)
    set_deadline(engine, connection, engine.now_ms + backend.idle_timeout_ms)
    if connection.io & IO_READABLE:
        list_ready(engine, connection)          # a read filled its buffer exactly: see whether more came
