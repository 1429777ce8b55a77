"""Heads as they are sent: into engine.write_buffer, whose first bytes they become. Each function returns the size written,
0 when the head does not fit (the caller refuses the message).
"""
from libc.stdint cimport uint32_t, uint64_t

from fastlb.data_plane.failure cimport failures, status_phrase
from fastlb.data_plane.grpc cimport grpc_status_of
from fastlb.data_plane.header_edits cimport apply_edits, copy_fields, copy_fields_but_edited, is_edited
from fastlb.data_plane.http1_head cimport kept_request
from fastlb.data_plane.sticky cimport put_sticky_cookie
from fastlb.data_plane.system cimport (AF_INET, AF_INET6, gmtime_r, htons, inet_ntop, likely, memcpy, memmove, sockaddr, sockaddr_in,
                                       sockaddr_in6, strlen, time_t, tm, unlikely)
from fastlb.data_plane.template cimport put_template
from fastlb.data_plane.types cimport (ADDRESS_TEXT_BYTES, DATE_BYTES, FRAME_CHUNKED, HEAD_ABSOLUTE_TARGET, HEAD_UPGRADE,
                                      HEADER_CONTENT_LENGTH, HEADER_DATE, HEADER_EXPECT, HEADER_HOST, MAX_BODY_TEMPLATE_BYTES, METHOD_OPTIONS,
                                      ROUTE_CHANGES_HEAD, ROUTE_EDITS_RESPONSE, ROUTE_REDIRECTS, ROUTE_RESPONDS, ROUTE_SETS_HOST,
                                      WRITE_BUFFER_BYTES, X_HTTP_1_0, X_IS_HEAD,
                                      X_SET_COOKIE, Backend, Engine, Exchange, Head, HeaderField, ImageHeader, ImageRoute)
from fastlb.data_plane.writer cimport Writer, put, put_number

cdef enum:
    HEAD_ROOM = WRITE_BUFFER_BYTES - MAX_BODY_TEMPLATE_BYTES    # the rest is for a small body and chunk framing, or an answer's body

cdef const char* DAYS = b"SunMonTueWedThuFriSat"
cdef const char* MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"


cdef inline void open_writer(Engine* engine, Writer* out) noexcept nogil:
    out.at = engine.write_buffer
    out.end = engine.write_buffer + HEAD_ROOM
    out.overflow = False


cdef inline uint32_t written(Engine* engine, const Writer* out) noexcept nogil:
    return 0 if out.overflow else <uint32_t>(out.at - engine.write_buffer)


cdef void two_digits(char* at, int value) noexcept nogil:
    at[0] = <char>(c"0" + value // 10 % 10)
    at[1] = <char>(c"0" + value % 10)


cdef void put_date(Engine* engine, Writer* out) noexcept nogil:
    # IMF-fixdate (RFC 9110 section 5.6.7), made once a second.
    cdef:
        uint64_t now_s = (engine.now_ms + engine.wall_offset_ms) // 1000
        time_t when = <time_t>now_s
        tm parts
        char* text = engine.date
    if engine.date_s != now_s or engine.date[0] == 0:
        engine.date_s = now_s
        gmtime_r(&when, &parts)
        memcpy(text, b"Sun, 06 Nov 1994 08:49:37 GMT", DATE_BYTES)
        memcpy(text, DAYS + 3 * parts.tm_wday, 3)
        two_digits(text + 5, parts.tm_mday)
        memcpy(text + 8, MONTHS + 3 * parts.tm_mon, 3)
        two_digits(text + 12, (parts.tm_year + 1900) // 100)
        two_digits(text + 14, parts.tm_year % 100)
        two_digits(text + 17, parts.tm_hour)
        two_digits(text + 20, parts.tm_min)
        two_digits(text + 23, parts.tm_sec)
    put(out, b"Date: ", 6)
    put(out, text, DATE_BYTES)
    put(out, b"\r\n", 2)


cdef void put_upgrade(const Head* head, Writer* out) noexcept nogil:
    cdef const HeaderField* field = &head.fields[head.upgrade_field]
    put(out, b"Connection: Upgrade\r\nUpgrade: ", 30)
    put(out, head.data + field.value, field.value_size)
    put(out, b"\r\n", 2)


cdef void put_authority(const Backend* backend, Writer* out) noexcept nogil:
    # The backend's own address as a host: the only authority there is when the client named none.
    cdef:
        const sockaddr* address = <const sockaddr*>backend.address
        const sockaddr_in* v4 = <const sockaddr_in*>backend.address
        const sockaddr_in6* v6 = <const sockaddr_in6*>backend.address
        char text[ADDRESS_TEXT_BYTES]
    if address.sa_family == AF_INET and inet_ntop(AF_INET, &v4.sin_addr, text, ADDRESS_TEXT_BYTES) != NULL:
        put(out, text, strlen(text))
        put(out, b":", 1)
        put_number(out, htons(v4.sin_port))
    elif address.sa_family == AF_INET6 and inet_ntop(AF_INET6, &v6.sin6_addr, text, ADDRESS_TEXT_BYTES) != NULL:
        put(out, b"[", 1)
        put(out, text, strlen(text))
        put(out, b"]:", 2)
        put_number(out, htons(v6.sin6_port))
    else:
        put(out, b"localhost", 9)               # a unix socket


cdef inline void put_origin(const Head* head, Writer* out) noexcept nogil:
    # The target as it came, in origin form.
    if unlikely(head.flags & HEAD_ABSOLUTE_TARGET and (head.origin_size == 0 or head.data[head.origin] == c"?")):
        # "http://host" and "http://host?q" have an empty path (RFC 9112 section 3.2.1; "*" for OPTIONS, section 3.2.4)
        put(out, b"*" if head.method == METHOD_OPTIONS and head.origin_size == 0 else b"/", 1)
    put(out, head.data + head.origin, head.origin_size)


cdef inline void put_host(const Head* head, const Backend* backend, Writer* out) noexcept nogil:
    # Where the client's own Host field is not copied or missing.
    if unlikely(head.flags & HEAD_ABSOLUTE_TARGET):
        put(out, b"Host: ", 6)
        put(out, head.data + head.host, head.host_size)
        put(out, b"\r\n", 2)
    elif unlikely(head.host == 0):
        put(out, b"Host: ", 6)                  # HTTP/1.0 may come without one; HTTP/1.1 may not go without
        put_authority(backend, out)
        put(out, b"\r\n", 2)


cdef void put_changed_fields(Engine* engine, Exchange* exchange, const Head* head, const Backend* backend, uint64_t except_ids,
                             Writer* out) noexcept nogil:
    # Host and the received fields, for a route that changes more of them than what has a HeaderId.
    cdef:
        const ImageRoute* route = exchange.route
        char* value
    if route.features & ROUTE_SETS_HOST:
        put(out, b"Host: ", 6)
        value = out.at
        put_template(engine, exchange, head, NULL, &route.host, out)
        if out.at == value:
            put_authority(backend, out)         # it came out empty
        put(out, b"\r\n", 2)
        except_ids |= <uint64_t>1 << HEADER_HOST
    else:
        put_host(head, backend, out)
    copy_fields_but_edited(out, head, except_ids, exchange, &route.request)


cdef uint32_t write_request(Engine* engine, Exchange* exchange, const Head* head, const Backend* backend) noexcept nogil:
    # The request as this backend gets it: origin form, HTTP/1.1, hop-by-hop fields gone, the edits of its route applied.
    cdef:
        Writer out
        uint64_t except_ids = exchange.route.request.replaced_ids
        bint changes = exchange.route.features & ROUTE_CHANGES_HEAD != 0
    open_writer(engine, &out)
    put(&out, head.data, head.method_size + 1)
    if unlikely(changes and exchange.target != NULL):
        put(&out, exchange.target.data + exchange.target.start, exchange.target.end - exchange.target.start)
    else:
        put_origin(head, &out)
    put(&out, b" HTTP/1.1\r\n", 11)
    if unlikely(head.version == 0):
        except_ids |= <uint64_t>1 << HEADER_EXPECT      # means nothing in HTTP/1.0 (RFC 9110 section 10.1.1)
    if likely(not changes):
        put_host(head, backend, &out)
        copy_fields(&out, head, except_ids)
    else:
        put_changed_fields(engine, exchange, head, backend, except_ids, &out)
    if head.framing == FRAME_CHUNKED:
        put(&out, b"Transfer-Encoding: chunked\r\n", 28)
    if unlikely(head.flags & HEAD_UPGRADE):
        put_upgrade(head, &out)
    apply_edits(engine, exchange, head, NULL, &exchange.route.request, &out)
    put(&out, b"\r\n", 2)
    return written(engine, &out)


cdef void put_status_line(const Head* head, Writer* out) noexcept nogil:
    # Always our own version; status and reason phrase as received.
    put(out, b"HTTP/1.1 ", 9)
    put(out, head.data + 9, 3)
    put(out, b" ", 1)
    put(out, head.data + head.reason, head.reason_size)
    put(out, b"\r\n", 2)


cdef uint32_t write_response(Engine* engine, Exchange* exchange, const Head* head, bint chunked, bint close) noexcept nogil:
    # The final head for an HTTP/1.x client; `chunked`: how the body will follow; `close`: this is the connection's last exchange.
    cdef:
        Writer out
        const ImageRoute* route = exchange.route
        bint edits = route.features & ROUTE_EDITS_RESPONSE != 0
        uint64_t except_ids = 0, dates = head.seen
    open_writer(engine, &out)
    put_status_line(head, &out)
    if unlikely(head.status == 204 or head.status == 101):
        except_ids = <uint64_t>1 << HEADER_CONTENT_LENGTH       # must not be sent with these (RFC 9110 section 8.6)
    if likely(not edits):
        copy_fields(&out, head, except_ids)
    else:
        copy_fields_but_edited(&out, head, except_ids | route.response.replaced_ids, exchange, &route.response)
        dates |= route.response.replaced_ids
    if unlikely(not (dates >> HEADER_DATE) & 1):
        put_date(engine, &out)                  # RFC 9110 section 6.6.1
    if unlikely(edits):
        apply_edits(engine, exchange, kept_request(engine, exchange), head, &route.response, &out)
    if unlikely(exchange.flags & X_SET_COOKIE):
        put_sticky_cookie(engine, exchange, &out)
    if chunked:
        put(&out, b"Transfer-Encoding: chunked\r\n", 28)
    if unlikely(head.status == 101):
        put_upgrade(head, &out)
    elif unlikely(close):
        put(&out, b"Connection: close\r\n", 19)
    elif unlikely(exchange.flags & X_HTTP_1_0):
        put(&out, b"Connection: keep-alive\r\n", 24)
    put(&out, b"\r\n", 2)
    return written(engine, &out)


cdef uint32_t write_informational(Engine* engine, const Head* head) noexcept nogil:
    cdef Writer out
    open_writer(engine, &out)
    put_status_line(head, &out)
    copy_fields(&out, head, <uint64_t>1 << HEADER_CONTENT_LENGTH)
    put(&out, b"\r\n", 2)
    return written(engine, &out)


cdef uint32_t local_body_bytes(uint32_t failure) noexcept nogil:
    # Of the body that write_local writes, except to HEAD.
    return <uint32_t>(strlen(status_phrase(failures[failure].status)) + strlen(failures[failure].sentence) + 6)


cdef void put_reason(Engine* engine, uint32_t failure, Writer* out) noexcept nogil:
    # The reason id. The snapshot of the exchange may be gone, so the engine's current one names the field.
    cdef const ImageHeader* header = engine.snapshot.header
    if header.reason_header.size:
        put(out, engine.snapshot.image + header.reason_header.offset, header.reason_header.size)
        put(out, b": ", 2)
        put(out, failures[failure].id, strlen(failures[failure].id))
        put(out, b"\r\n", 2)


cdef uint32_t write_local(Engine* engine, Exchange* exchange, uint32_t failure, bint close) noexcept nogil:
    # A response of our own, with its reason id.
    cdef:
        Writer out
        const char* phrase = status_phrase(failures[failure].status)
        const char* sentence = failures[failure].sentence
        size_t phrase_size = strlen(phrase)
        size_t sentence_size = strlen(sentence)
    open_writer(engine, &out)
    put(&out, b"HTTP/1.1 ", 9)
    put_number(&out, failures[failure].status)
    put(&out, b" ", 1)
    put(&out, phrase, phrase_size)
    put(&out, b"\r\n", 2)
    put_date(engine, &out)
    put(&out, b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: ", 57)
    put_number(&out, <uint32_t>(phrase_size + sentence_size + 6))
    put(&out, b"\r\n", 2)
    put_reason(engine, failure, &out)
    if close:
        put(&out, b"Connection: close\r\n", 19)
    elif exchange.flags & X_HTTP_1_0:
        put(&out, b"Connection: keep-alive\r\n", 24)
    put(&out, b"\r\n", 2)
    if not exchange.flags & X_IS_HEAD:
        put_number(&out, failures[failure].status)
        put(&out, b" ", 1)
        put(&out, phrase, phrase_size)
        put(&out, b"\n", 1)
        put(&out, sentence, sentence_size)
        put(&out, b"\n", 1)
    return written(engine, &out)


cdef uint32_t write_grpc(Engine* engine, uint32_t failure) noexcept nogil:
    # The same for a gRPC client: a head alone, which stands for trailers (grpc.pxd). None of the sentences has to be percent-encoded.
    cdef Writer out
    open_writer(engine, &out)
    put(&out, b"HTTP/1.1 200 OK\r\n", 17)
    put_date(engine, &out)
    put(&out, b"Content-Type: application/grpc\r\nGrpc-Status: ", 45)
    put_number(&out, grpc_status_of(failure))
    put(&out, b"\r\nGrpc-Message: ", 16)
    put(&out, failures[failure].sentence, strlen(failures[failure].sentence))
    put(&out, b"\r\n", 2)
    put_reason(engine, failure, &out)
    put(&out, b"\r\n", 2)
    return written(engine, &out)


cdef void put_location(Engine* engine, Exchange* exchange, const Head* request, Writer* out) noexcept nogil:
    # Where a redirect leads. A path that begins with two slashes would be taken for a host ("//evil.example"), and browsers read "\\" as
    # "/": the second one goes, whatever a client has put there.
    cdef:
        char* start
        uint32_t extra = 0
    put(out, b"Location: ", 10)
    start = out.at
    put_template(engine, exchange, request, NULL, &exchange.route.target, out)
    while out.at - start > extra + 1 and start[0] == c"/" and (start[extra + 1] == c"/" or start[extra + 1] == c"\\"):
        extra += 1
    if extra:
        memmove(start + 1, start + 1 + extra, <size_t>(out.at - start) - 1 - extra)
        out.at -= extra
    put(out, b"\r\n", 2)


cdef void put_answer_fields(Engine* engine, Exchange* exchange, const Head* request, bint has_body, uint32_t size, Writer* out) noexcept nogil:
    # The fields of a route's own answer, but for those that its edits take the place of.
    cdef:
        const ImageRoute* route = exchange.route
        const char* image = exchange.snapshot.image
        bint edits = route.features & ROUTE_EDITS_RESPONSE != 0
    if not edits or not (route.response.replaced_ids >> HEADER_DATE) & 1:
        put_date(engine, out)
    if route.features & ROUTE_REDIRECTS and not (edits and is_edited(b"Location", 8, exchange, &route.response)):
        put_location(engine, exchange, request, out)
    if size and not (edits and is_edited(b"Content-Type", 12, exchange, &route.response)):
        put(out, b"Content-Type: ", 14)
        put(out, image + route.content_type.offset, route.content_type.size)
        put(out, b"\r\n", 2)
    if has_body:
        put(out, b"Content-Length: ", 16)
        put_number(out, size)
        put(out, b"\r\n", 2)
    if edits:
        apply_edits(engine, exchange, request, NULL, &route.response, out)


cdef uint32_t write_answer(Engine* engine, Exchange* exchange, const Head* request, bint close, uint32_t* body_size) noexcept nogil:
    # What a route answers by itself, a redirect or a response. *body_size: of these bytes the body, which HEAD does not get.
    cdef:
        Writer out, body
        const ImageRoute* route = exchange.route
        const char* image = exchange.snapshot.image
        const char* body_start = engine.write_buffer + WRITE_BUFFER_BYTES - MAX_BODY_TEMPLATE_BYTES
        uint32_t size
        bint has_body = route.status != 204 and route.status != 304     # RFC 9110 section 6.4.1
    body.at = engine.write_buffer + WRITE_BUFFER_BYTES - MAX_BODY_TEMPLATE_BYTES
    body.end = engine.write_buffer + WRITE_BUFFER_BYTES
    body.overflow = False
    if route.features & ROUTE_RESPONDS and has_body:
        put_template(engine, exchange, request, NULL, &route.body, &body)
    if body.overflow:
        return 0
    size = <uint32_t>(body.at - body_start)
    open_writer(engine, &out)
    put(&out, b"HTTP/1.1 ", 9)
    put_number(&out, route.status)
    put(&out, b" ", 1)
    put(&out, image + route.phrase.offset, route.phrase.size)
    put(&out, b"\r\n", 2)
    put_answer_fields(engine, exchange, request, has_body, size, &out)
    if close:
        put(&out, b"Connection: close\r\n", 19)
    elif exchange.flags & X_HTTP_1_0:
        put(&out, b"Connection: keep-alive\r\n", 24)
    put(&out, b"\r\n", 2)
    if out.overflow:
        return 0
    body_size[0] = 0 if exchange.flags & X_IS_HEAD else size
    memmove(out.at, body_start, body_size[0])   # the head ends before the body's place
    return written(engine, &out) + body_size[0]
