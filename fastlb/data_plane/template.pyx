"""Templates: texts with values of the exchange, compiled to segments (types.pxd: ImageSegment) and written by one function.

What is written is fit for where it goes, whatever a client sends: each segment says how its value is encoded, and the compiler
(control_plane/config/template.py) has chosen that by the place where it stands. A value that there is none of writes nothing.

Reads the exchange, its heads and the snapshot's image; changes Engine.path (scratch), makes Exchange.request_id and Exchange.matched.
"""
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.buffer cimport append_bytes
from fastlb.data_plane.cookie cimport Cookie, find_cookie
from fastlb.data_plane.trust cimport is_trusted, make_request_id, put_received
from fastlb.data_plane.image cimport range_fits, text_fits
from fastlb.data_plane.query cimport decode_query, find_parameter, is_plain
from fastlb.data_plane.proxy_codec cimport proxy_fact
from fastlb.data_plane.system cimport likely, memcpy, unlikely
from fastlb.data_plane.target cimport request_path
from fastlb.data_plane.tls cimport tls_fact
from fastlb.data_plane.types cimport ADDRESS_TEXT_BYTES, SEGMENT_PROXY, SEGMENT_TLS, X_CAME_BY_TLS, Connection
from fastlb.data_plane.types cimport (ENCODE_COMPONENT, ENCODE_CONTROLS, ENCODE_NOTHING, ENCODE_PATH, HEADER_X_REQUEST_ID,
                                      MAX_TEMPLATE_LITERAL_BYTES, MAX_TEMPLATE_SEGMENTS, NO_INDEX, REQUEST_ID_BYTES, SEGMENT_BACKEND,
                                      SEGMENT_CAPTURE, SEGMENT_CLIENT, SEGMENT_CLIENT_PORT, SEGMENT_COOKIE, SEGMENT_ENCODINGS, SEGMENT_HEADER, SEGMENT_HOST, SEGMENT_HTTP_HOST,
                                      SEGMENT_KINDS, SEGMENT_LISTENER, SEGMENT_LITERAL, SEGMENT_METHOD, SEGMENT_PATH, SEGMENT_POOL,
                                      SEGMENT_QUERY, SEGMENT_QUERY_VALUE, SEGMENT_REQUEST_ID, SEGMENT_RESPONSE_HEADER, SEGMENT_ROUTE, SEGMENT_SCHEME,
                                      SEGMENT_STATUS, SEGMENT_URI, Engine, Exchange, Head, HeaderField, ImageHeader, ImageSection,
                                      ImageSegment, ImageText, NamedPart)
from fastlb.data_plane.writer cimport Writer, put, put_number

cdef const char* HEX = b"0123456789ABCDEF"

# Bit per SegmentEncoding: this byte is written as it is. Filled when the module is imported and never written again.
cdef uint8_t CLEAN[256]


def _fill_classes() -> None:
    for byte in range(256):
        char = chr(byte)
        CLEAN[byte] = 1 << ENCODE_NOTHING
        if (byte >= 0x20 or byte == 0x09) and byte != 0x7F:
            CLEAN[byte] |= 1 << ENCODE_CONTROLS
        if 0x20 < byte < 0x7F and char not in '"#%<>?\\^`{|}':
            CLEAN[byte] |= 1 << ENCODE_PATH
        if byte < 0x80 and (char.isalnum() or char in "-._~"):
            CLEAN[byte] |= 1 << ENCODE_COMPONENT


_fill_classes()


# ---------------------------------------------------------------------------------------------------------- the image
cdef bint check_segments(const char* image, const ImageHeader* header) noexcept nogil:
    # Every segment of an image whose sections are known to lie inside it.
    cdef:
        const ImageSegment* segment = <const ImageSegment*>(image + header.segments.offset)
        uint32_t _i
    for _i in range(header.segments.count):
        if segment.kind >= SEGMENT_KINDS or segment.encoding >= SEGMENT_ENCODINGS or not text_fits(header.size, &segment.text) \
                or segment.text.size > MAX_TEMPLATE_LITERAL_BYTES:
            return False
        segment += 1
    return True


cdef bint check_template(const ImageHeader* header, const ImageSection* template) noexcept nogil:
    return range_fits(template, &header.segments) and template.count <= MAX_TEMPLATE_SEGMENTS


# ---------------------------------------------------------------------------------------------------------- values
cdef void put_encoded(Writer* out, const char* data, uint32_t size, uint32_t encoding) noexcept nogil:
    cdef:
        uint32_t start = 0, i
        uint8_t byte
        char escape[3]
    if encoding == ENCODE_NOTHING:
        put(out, data, size)
        return
    escape[0] = c"%"
    for i in range(size):
        byte = <uint8_t>data[i]
        if CLEAN[byte] >> encoding & 1:
            continue
        put(out, data + start, i - start)
        escape[1] = HEX[byte >> 4]
        escape[2] = HEX[byte & 15]
        put(out, escape, 3)
        start = i + 1
    put(out, data + start, size - start)


cdef inline char lower(char byte) noexcept nogil:
    return byte | 0x20 if c"A" <= byte <= c"Z" else byte


cdef inline void put_address(const Connection* client, Writer* out) noexcept nogil:
    # All of the array: its size is known when this is compiled. Of a size that it knows to be below 256 the compiler makes "rep movs", which
    # takes 20 ns to begin.
    if likely(out.end - out.at >= <ptrdiff_t>ADDRESS_TEXT_BYTES):
        memcpy(out.at, client.peer.address, ADDRESS_TEXT_BYTES)
        out.at += client.address_size
    else:
        out.overflow = True


cdef void put_host_name(const Head* request, Writer* out) noexcept nogil:
    # Without port and dot at the end, in lower case. The parser has checked it: name or bracketed address, then ":" and digits.
    cdef:
        const char* host = request.data + request.host
        uint32_t size = request.host_size
        char* at = out.at
    if size and host[0] == c"[":
        while host[size - 1] != c"]":
            size -= 1
    else:
        size = 0
        while size < request.host_size and host[size] != c":":
            size += 1
        if size and host[size - 1] == c".":
            size -= 1
    put(out, host, size)
    while at < out.at:
        at[0] = lower(at[0])
        at += 1


cdef void put_uri(const Head* request, Writer* out) noexcept nogil:
    # The raw target in origin form. "*" and an empty path are written as "/": behind a host nothing else could stand.
    cdef const char* origin = request.data + request.origin
    if unlikely(request.origin_size == 0 or origin[0] != c"/"):
        put(out, b"/", 1)
        if request.origin_size and origin[0] == c"?":
            put(out, origin, request.origin_size)
        return
    put(out, origin, request.origin_size)


cdef void put_named(const Head* head, const char* name, uint32_t size, uint32_t encoding, Writer* out) noexcept nogil:
    # The values of all fields of this name, which is lower case, joined by ", ".
    cdef:
        const HeaderField* field = &head.fields[0]
        uint32_t _i, k
        bint first = True
    for _i in range(head.n_fields):
        if field.name_size == size:
            for k in range(size):
                if lower(head.data[field.name + k]) != name[k]:
                    break
            else:
                if not first:
                    put_encoded(out, b", ", 2, encoding)
                first = False
                put_encoded(out, head.data + field.value, field.value_size, encoding)
        field += 1


cdef void put_request_id(Engine* engine, Exchange* exchange, const Head* request, uint32_t encoding, Writer* out) noexcept nogil:
    # What a trusted client sent, else our own: one per exchange, the same for all its attempts.
    if request != NULL and (request.seen >> HEADER_X_REQUEST_ID) & 1 and is_trusted(engine, exchange) \
            and put_received(request, HEADER_X_REQUEST_ID, out, True):
        return
    if exchange.request_id[0] == 0:
        make_request_id(engine, exchange.request_id)
    put(out, exchange.request_id, REQUEST_ID_BYTES)


cdef void put_text(const Exchange* exchange, const ImageText* text, uint32_t encoding, Writer* out) noexcept nogil:
    put_encoded(out, exchange.snapshot.image + text.offset, text.size, encoding)


cdef void put_fact(const Exchange* exchange, uint32_t kind, uint32_t encoding, Writer* out) noexcept nogil:
    # Of a client that speaks TLS with us, or whose connection began with a PROXY header.
    cdef:
        const char* text = NULL
        uint32_t size
    if kind < SEGMENT_PROXY:
        size = tls_fact(exchange.client, kind - <uint32_t>SEGMENT_TLS, &text)
    else:
        size = proxy_fact(exchange.client, kind - <uint32_t>SEGMENT_PROXY, &text)
    if size:
        put_encoded(out, text, size, encoding)


cdef void put_cookie(const Exchange* exchange, const Head* request, const ImageSegment* segment, Writer* out) noexcept nogil:
    # Without quotes around it, as conditions compare it.
    cdef Cookie cookie
    if not find_cookie(request, exchange.snapshot.image + segment.text.offset, segment.text.size, &cookie):
        return
    if cookie.value_size >= 2 and cookie.value[0] == c'"' and cookie.value[cookie.value_size - 1] == c'"':
        put_encoded(out, cookie.value + 1, cookie.value_size - 2, segment.encoding)
    else:
        put_encoded(out, cookie.value, cookie.value_size, segment.encoding)


cdef void put_query_value(Engine* engine, const Exchange* exchange, const Head* request, const ImageSegment* segment,
                          Writer* out) noexcept nogil:
    cdef:
        NamedPart part
        uint32_t size
    if not find_parameter(request, exchange.snapshot.image + segment.text.offset, segment.text.size, &part):
        return
    if is_plain(part.value, part.value_size):
        put_encoded(out, part.value, part.value_size, segment.encoding)
        return
    size = decode_query(part.value, part.value_size, engine.path)       # no longer than the target, for which there is room
    put_encoded(out, engine.path, size, segment.encoding)


# ---------------------------------------------------------------------------------------------------------- captures
cdef bint keep_match(Engine* engine, Exchange* exchange) noexcept nogil:
    # Keeps what find_route has just found, for templates that are written after other requests have been routed: how many groups there
    # are, where each starts and ends, and the path. False: out of memory.
    cdef uint32_t n_groups = engine.match.n_groups
    return append_bytes(&engine.buffers, &exchange.matched, <const char*>&n_groups, sizeof(uint32_t)) \
        and append_bytes(&engine.buffers, &exchange.matched, <const char*>&engine.match.groups[0], 2 * n_groups * sizeof(uint32_t)) \
        and append_bytes(&engine.buffers, &exchange.matched, engine.match.path, engine.match.path_size)


cdef void put_capture(const Exchange* exchange, const ImageSegment* segment, Writer* out) noexcept nogil:
    cdef:
        const uint32_t* kept
        const char* path
        uint32_t start
    if exchange.matched == NULL:
        return
    kept = <const uint32_t*>(exchange.matched.data + exchange.matched.start)
    if segment.argument >= kept[0] or kept[1 + 2 * segment.argument] == <uint32_t>NO_INDEX:
        return                                  # a group that took no part
    path = <const char*>(kept + 1 + 2 * kept[0])
    start = kept[1 + 2 * segment.argument]
    put_encoded(out, path + start, kept[2 + 2 * segment.argument] - start, segment.encoding)


# ---------------------------------------------------------------------------------------------------------- writing
cdef void put_request_value(Engine* engine, Exchange* exchange, const Head* request, const ImageSegment* segment, Writer* out) noexcept nogil:
    # A value of the request head.
    cdef:
        const char* path
        int size = 0
        uint32_t kind = segment.kind, encoding = segment.encoding
    if kind == SEGMENT_HOST:
        put_host_name(request, out)
    elif kind == SEGMENT_HTTP_HOST:
        put(out, request.data + request.host, request.host_size)
    elif kind == SEGMENT_METHOD:
        put(out, request.data, request.method_size)
    elif kind == SEGMENT_URI:
        put_uri(request, out)
    elif kind == SEGMENT_PATH:
        path = request_path(request, engine.path, &size)
        if path != NULL:                        # the request would have been refused else
            put_encoded(out, path, <uint32_t>size, encoding)
    elif kind == SEGMENT_QUERY:
        if request.origin_size > request.path_size + 1:
            put(out, request.data + request.origin + request.path_size + 1, request.origin_size - request.path_size - 1)
    elif kind == SEGMENT_HEADER:
        put_named(request, exchange.snapshot.image + segment.text.offset, segment.text.size, encoding, out)
    elif kind == SEGMENT_COOKIE:
        put_cookie(exchange, request, segment, out)
    elif kind == SEGMENT_QUERY_VALUE:
        put_query_value(engine, exchange, request, segment, out)


cdef inline void put_value(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageSegment* segment,
                    Writer* out) noexcept nogil:
    cdef uint32_t kind = segment.kind, encoding = segment.encoding
    if kind == SEGMENT_CLIENT:
        put_address(exchange.client, out)
    elif kind == SEGMENT_SCHEME:
        put(out, b"https", 5 if exchange.client.peer.exchange_flags & X_CAME_BY_TLS else 4)
    elif kind == SEGMENT_REQUEST_ID:
        put_request_id(engine, exchange, request, encoding, out)
    elif kind == SEGMENT_CLIENT_PORT:
        put_number(out, exchange.client.peer_port)
    elif kind == SEGMENT_LISTENER:
        put_encoded(out, exchange.client.listener.name, exchange.client.listener.name_size, encoding)
    elif kind == SEGMENT_ROUTE:
        put_text(exchange, &exchange.route.name, encoding, out)
    elif kind == SEGMENT_POOL:
        if exchange.pool != NULL:
            put_text(exchange, &exchange.pool.image.name, encoding, out)
    elif kind == SEGMENT_BACKEND:
        if exchange.attempt != NULL:
            put_encoded(out, exchange.attempt.backend.display, exchange.attempt.backend.display_size, encoding)
    elif kind == SEGMENT_STATUS:
        put_number(out, exchange.status)
    elif kind == SEGMENT_CAPTURE:
        put_capture(exchange, segment, out)
    elif kind >= SEGMENT_TLS:
        put_fact(exchange, kind, encoding, out)
    elif kind == SEGMENT_RESPONSE_HEADER:
        if response != NULL:
            put_named(response, exchange.snapshot.image + segment.text.offset, segment.text.size, encoding, out)
    elif request != NULL:
        put_request_value(engine, exchange, request, segment, out)


cdef void put_segments(Engine* engine, Exchange* exchange, const Head* request, const Head* response, const ImageSegment* segment,
                       uint32_t count, Writer* out) noexcept nogil:
    # As put_template.
    cdef uint32_t _i
    for _i in range(count):
        if segment.kind == SEGMENT_LITERAL:
            put_text(exchange, &segment.text, ENCODE_NOTHING, out)
        else:
            put_value(engine, exchange, request, response, segment, out)
        segment += 1
