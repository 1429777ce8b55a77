"""Requests that a client of TLS 1.3 sends before its resumed handshake is over (early data, RFC 8446 section 2.3; RFC 8470).

Whoever records these bytes can send them again, to any worker and node that has the ticket's key, for about ten seconds: OpenSSL refuses them
when the ticket's age is not what the client says. Nothing here remembers what came before. So only what is safe goes on at once: GET, HEAD
and OPTIONS, marked `Early-Data: 1`, so that a backend that minds can answer 425 (Too Early), which the client gets. Everything else waits for
the end of the handshake, which nobody can repeat.

A TCP session waits whole. HTTP/1.1: the first request, where all of its head is here at once and it has no body; what follows it waits. HTTP/2: each stream by its method.
Until the handshake is over the client has a transport for that (tls.pyx), and with HTTP/2 the codec below. A field that the client or a proxy
before us has sent stays (RFC 8470 section 5.1). No state of its own.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.connection cimport close_connection, set_deadline
from fastlb.data_plane.failure cimport FAILURE_TLS_TIMEOUT
from fastlb.data_plane.http1_head cimport parse_request, same_name
from fastlb.data_plane.http2_client cimport http2_client_codec
from fastlb.data_plane.http2_head cimport add_field, asks_safely, has_field
from fastlb.data_plane.meters cimport count_client_in, count_failure
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.tls cimport carry_early_data, chose_http2
from fastlb.data_plane.types cimport (FIELD_DROPPED, FRAME_NONE, H2_AWAITS_HANDSHAKE, H2_EARLY, HEAD_UPGRADE, IO_READABLE, METHOD_GET, METHOD_HEAD,
                                      METHOD_OPTIONS, STATE_CLOSED, X_CAME_BY_TLS, Buffer, Codec, Connection, Engine, Head, HeaderField, Http2Session,
                                      Http2Stream, TlsConnection)

cdef enum:
    SAFE = 1 << METHOD_GET | 1 << METHOD_HEAD | 1 << METHOD_OPTIONS     # RFC 9110 section 9.2.1; TRACE is refused
    MARK_BYTES = 15

cdef const char* MARK = b"Early-Data: 1\r\n"


# ---------------------------------------------------------------------------------------------------------- HTTP/1.1
cdef bint is_marked(const Head* head) noexcept nogil:
    # Whether its backend will be told.
    cdef:
        const HeaderField* field
        uint32_t i
    for i in range(head.n_fields):
        field = &head.fields[i]
        if field.name_size == 10 and not field.flags & FIELD_DROPPED and same_name(head.data + field.name, b"early-data", 10):
            return True
    return False


cdef bint parse_input(Engine* engine, const Connection* client) noexcept nogil:
    # Whether client.input holds a whole head, parsed into engine.request.
    cdef const Buffer* input = client.input
    return parse_request(&engine.request, input.data + input.start, input.end - input.start, &client.listener.settings.head) > 0


cdef bint move_request(Engine* engine, Connection* client, TlsConnection* tls) noexcept nogil:
    # A first request that need not wait, with its mark, to where HTTP looks for what came before. False: there is none, and client.input is empty.
    # What is wrong with it is told later.
    cdef:
        Head* head = &engine.request
        const char* data = tls.early.data + tls.early.start
        int size = parse_request(head, data, tls.early.end - tls.early.start, &client.listener.settings.head)
        bint done
    if size <= 0 or not (<uint32_t>SAFE >> head.method) & 1 or head.framing != FRAME_NONE or head.flags & HEAD_UPGRADE:
        return False
    done = append_bytes(&engine.buffers, &client.input, data, <uint32_t>size - 2)
    if done and not is_marked(head):
        done = append_bytes(&engine.buffers, &client.input, MARK, MARK_BYTES)
    # With the mark it may be too large, and a client that names it in Connection would have it taken off again.
    if not done or not append_bytes(&engine.buffers, &client.input, b"\r\n", 2) or not parse_input(engine, client) or not is_marked(head):
        return_buffer(&engine.buffers, client.input)
        client.input = NULL
        return False
    engine.counters.client_bytes_in += <uint32_t>size
    count_client_in(engine, client, <uint32_t>size)
    tls.early.start += <uint32_t>size
    if tls.early.start == tls.early.end:
        return_buffer(&engine.buffers, tls.early)
        tls.early = NULL
    return True


# ---------------------------------------------------------------------------------------------------------- beginning
cdef bint take_early_requests(Engine* engine, Connection* client, bint stands) noexcept nogil:
    # A client has sent early data, and its handshake `stands` or goes on. True: HTTP begins now. False: it waits (TlsConnection.early_waits).
    # Looked at once: clients send a request in one record.
    cdef TlsConnection* tls = client.tls
    if client.listener.codec != engine.session_codec and chose_http2(client):
        tls.passes_early = True
    elif not tls.early_waits and (client.listener.codec == engine.session_codec or not move_request(engine, client, tls)) and not stands:
        tls.early_waits = True
        return False
    client.peer.exchange_flags |= X_CAME_BY_TLS
    tls.early_until_ms = client.timer.deadline_ms
    carry_early_data(client)
    client.io |= IO_READABLE
    return True


cdef void follow_handshake(Connection* client) noexcept nogil:
    # A client whose session of HTTP/2 has been opened for early data.
    (<Http2Session*>client.http2).stream_flags = H2_EARLY
    client.codec = &EARLY_HTTP2


# ---------------------------------------------------------------------------------------------------------- HTTP/2
cdef bint may_begin_early(Engine* engine, Http2Stream* stream) noexcept nogil:
    # Whether a stream whose header list came as early data may begin; it is marked then, if it could have begun before the handshake was over.
    if not asks_safely(stream.fields):
        if stream.session.stream_flags & H2_EARLY:
            stream.flags |= H2_AWAITS_HANDSHAKE
            return False
    elif not has_field(stream.fields, b"early-data", 10) and not add_field(&engine.buffers, &stream.fields, b"early-data", 10, b"1", 1):
        close_connection(engine, stream.connection, True)
        return False
    return True


cdef void limit_handshake(Engine* engine, Connection* client) noexcept nogil:
    # The handshake has its time, whatever HTTP waits for.
    if client.timer.deadline_ms > client.tls.early_until_ms:
        set_deadline(engine, client, client.tls.early_until_ms)


cdef void end_early(Engine* engine, Connection* client) noexcept nogil:
    # The handshake is over, and all that came before has been taken: streams that wait for that begin.
    cdef:
        Http2Session* session = <Http2Session*>client.http2
        Http2Stream* stream = session.streams
    client.codec = http2_client_codec()
    session.stream_flags = 0
    while stream != NULL:
        if stream.flags & H2_AWAITS_HANDSHAKE:
            stream.flags &= ~<uint32_t>H2_AWAITS_HANDSHAKE
            if stream.connection != NULL:
                list_ready(engine, stream.connection)
        stream = stream.next


cdef void early_http2_ready(Engine* engine, Connection* client) noexcept nogil:
    http2_client_codec().ready(engine, client)
    if client.state == STATE_CLOSED or client.codec != &EARLY_HTTP2:
        return
    if client.tls.stands and client.tls.early == NULL:
        end_early(engine, client)
    elif not client.tls.stands:
        limit_handshake(engine, client)


cdef void early_http2_timed_out(Engine* engine, Connection* client) noexcept nogil:
    if not client.tls.stands and engine.now_ms >= client.tls.early_until_ms:
        engine.counters.reasons[FAILURE_TLS_TIMEOUT] += 1
        count_failure(engine, client.listener.meter, FAILURE_TLS_TIMEOUT)
        close_connection(engine, client, False)
        return
    http2_client_codec().timed_out(engine, client)
    if client.state != STATE_CLOSED and client.codec == &EARLY_HTTP2 and not client.tls.stands:
        limit_handshake(engine, client)


cdef Codec EARLY_HTTP2
EARLY_HTTP2 = http2_client_codec()[0]
EARLY_HTTP2.ready = early_http2_ready
EARLY_HTTP2.timed_out = early_http2_timed_out
