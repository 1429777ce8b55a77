"""Heads between HTTP/2 and HTTP/1.1: a header list that has come becomes the text of a head, which http1_head.pyx then parses with all its
strictness; the text of a head that is to be sent becomes a list. Requests of clients and to backends, answers of backends and to clients.

Refused here is what that text could not show any more (RFC 9113 sections 8.2 and 8.3): octets that end a line, upper case, fields of one
connection, pseudo-header fields that are missing, unknown, repeated or late, an :authority that differs from Host. So whatever passes means
the same in both versions. Nothing here owns anything.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastlb.data_plane.buffer cimport append_bytes, return_buffer, take_buffer
from fastlb.data_plane.failure cimport (FAILURE_BAD_HEADER, FAILURE_BAD_HOST, FAILURE_BAD_REQUEST_LINE, FAILURE_BAD_TARGET, FAILURE_METHOD_NOT_SUPPORTED,
                                        FAILURE_NONE, FAILURE_OUT_OF_MEMORY)
from fastlb.data_plane.grpc cimport is_grpc_type
from fastlb.data_plane.http1_head cimport header_id, parse_trailers, same_name
from fastlb.data_plane.nghttp2 cimport nghttp2_nv
from fastlb.data_plane.random cimport next_random
from fastlb.data_plane.system cimport memchr, memcmp, memcpy, memmove, strlen
from fastlb.data_plane.tls cimport digest_sha1
from fastlb.data_plane.types cimport (HEADER_CONNECTION, HEADER_CONTENT_LENGTH, HEADER_COOKIE, HEADER_HOST, HEADER_HTTP2_SETTINGS, HEADER_KEEP_ALIVE,
                                      HEADER_PROXY_CONNECTION, HEADER_TE, HEADER_TRANSFER_ENCODING, HEADER_UPGRADE, MAX_HEAD_BYTES, Buffer, BufferPool, Engine,
                                      Head, HeaderField)
from fastlb.data_plane.writer cimport Writer, put, put_number

cdef enum:
    # Of one connection (RFC 9113 section 8.2.2): refused in requests, and never sent.
    HOP_BY_HOP = (1 << HEADER_CONNECTION | 1 << HEADER_KEEP_ALIVE | 1 << HEADER_PROXY_CONNECTION | 1 << HEADER_TRANSFER_ENCODING
                  | 1 << HEADER_UPGRADE)

cdef enum:
    MAX_LENGTH_DIGITS = 18
    MAX_KEY_BYTES = 64              # of a Sec-WebSocket-Key, which has 24

cdef enum:                          # pseudo-header fields, by index
    PSEUDO_METHOD = 0
    PSEUDO_SCHEME = 1
    PSEUDO_AUTHORITY = 2
    PSEUDO_PATH = 3
    PSEUDO_PROTOCOL = 4
    PSEUDOS = 5

cdef const char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef struct Size:                   # before each field in a list that is kept
    uint32_t name, value

cdef struct Text:
    const char* data                # borrowed; NULL = absent
    uint32_t size

# Octets of a field's name: token characters in lower case (RFC 9113 section 8.2.1). Filled when the module is imported and never written again.
cdef uint8_t NAME[256]


def _fill_names() -> None:
    for byte in range(256):
        NAME[byte] = byte < 128 and (chr(byte).isdigit() or "a" <= chr(byte) <= "z" or chr(byte) in "!#$%&'*+-.^_`|~")


_fill_names()


cdef bint add_field(BufferPool* buffers, Buffer** fields, const char* name, uint32_t name_size, const char* value,
                    uint32_t value_size) noexcept nogil:
    # Keeps a field of a header list until the list is whole. False: out of memory.
    cdef Size size
    size.name = name_size
    size.value = value_size
    return (append_bytes(buffers, fields, <const char*>&size, sizeof(size)) and append_bytes(buffers, fields, name, name_size)
            and append_bytes(buffers, fields, value, value_size))


cdef inline uint32_t next_field(const Buffer* fields, uint32_t at, Text* name, Text* value) noexcept nogil:
    # Reads the field at offset `at`, and returns where the next one is.
    cdef Size size
    memcpy(&size, fields.data + at, sizeof(size))
    name.data = fields.data + at + sizeof(size)
    name.size = size.name
    value.data = name.data + size.name
    value.size = size.value
    return at + <uint32_t>sizeof(size) + size.name + size.value


cdef inline bint is_text(const Text* text, const char* wanted, uint32_t size) noexcept nogil:
    return text.size == size and memcmp(text.data, wanted, size) == 0


cdef bint is_visible(const Text* text) noexcept nogil:
    # Not empty, and without spaces and control characters: it stands alone in a request line.
    cdef uint32_t i
    for i in range(text.size):
        if <uint8_t>text.data[i] <= 0x20 or <uint8_t>text.data[i] >= 0x7F:
            return False
    return text.size != 0


cdef bint is_name(const Text* name) noexcept nogil:
    cdef uint32_t i
    for i in range(name.size):
        if not NAME[<uint8_t>name.data[i]]:
            return False
    return name.size != 0


cdef bint is_value(const Text* value) noexcept nogil:
    # No control character but HTAB, and no white space at either end.
    cdef:
        uint32_t i
        uint8_t byte
    for i in range(value.size):
        byte = <uint8_t>value.data[i]
        if (byte < 0x20 and byte != 0x09) or byte == 0x7F:
            return False
    return value.size == 0 or (value.data[0] not in (c" ", c"\t") and value.data[value.size - 1] not in (c" ", c"\t"))


cdef uint32_t pseudo_index(const Text* name) noexcept nogil:
    if is_text(name, b":method", 7):
        return PSEUDO_METHOD
    if is_text(name, b":scheme", 7):
        return PSEUDO_SCHEME
    if is_text(name, b":authority", 10):
        return PSEUDO_AUTHORITY
    if is_text(name, b":path", 5):
        return PSEUDO_PATH
    if is_text(name, b":protocol", 9):
        return PSEUDO_PROTOCOL
    return PSEUDOS


cdef uint32_t check_fields(const Buffer* fields, Text* pseudo, Text* host, bint* has_length) noexcept nogil:
    # Looks at every field: FAILURE_NONE with the pseudo-header fields and Host where they are, or what is wrong.
    cdef:
        Text name, value
        uint32_t at = fields.start, index, id
        bint regular = False
    while at < fields.end:
        at = next_field(fields, at, &name, &value)
        if name.size and name.data[0] == c":":
            index = pseudo_index(&name)
            if regular or index == PSEUDOS or pseudo[index].data != NULL or not is_visible(&value):
                return FAILURE_BAD_TARGET if index == PSEUDO_PATH else FAILURE_BAD_REQUEST_LINE
            pseudo[index] = value
            continue
        regular = True
        if not is_name(&name) or not is_value(&value):
            return FAILURE_BAD_HEADER
        id = header_id(name.data, name.size)
        if (HOP_BY_HOP >> id) & 1 or (id == HEADER_TE and not is_text(&value, b"trailers", 8)):
            return FAILURE_BAD_HEADER
        if id == HEADER_HOST:
            if host.data != NULL:
                return FAILURE_BAD_HOST
            host[0] = value
        elif id == HEADER_CONTENT_LENGTH:
            has_length[0] = True
    return FAILURE_NONE


cdef uint32_t check_pseudo(const Text* pseudo, Text* host, bint* is_connect) noexcept nogil:
    # Whether they make a request line (RFC 9113 section 8.3.1, RFC 8441 section 4). Leaves in *host what the Host line will say.
    cdef:
        const Text* method = &pseudo[PSEUDO_METHOD]
        const Text* path = &pseudo[PSEUDO_PATH]
        const Text* authority = &pseudo[PSEUDO_AUTHORITY]
    if method.data == NULL:
        return FAILURE_BAD_REQUEST_LINE
    is_connect[0] = is_text(method, b"CONNECT", 7)
    if is_connect[0] and pseudo[PSEUDO_PROTOCOL].data == NULL:
        return FAILURE_METHOD_NOT_SUPPORTED if pseudo[PSEUDO_SCHEME].data == NULL and path.data == NULL else FAILURE_BAD_REQUEST_LINE
    if pseudo[PSEUDO_PROTOCOL].data != NULL and not is_connect[0]:
        return FAILURE_BAD_REQUEST_LINE
    if not is_text(&pseudo[PSEUDO_SCHEME], b"http", 4) and not is_text(&pseudo[PSEUDO_SCHEME], b"https", 5):
        return FAILURE_BAD_REQUEST_LINE
    if path.data == NULL or (path.data[0] != c"/" and not is_text(path, b"*", 1)):
        return FAILURE_BAD_TARGET               # an absolute form would name a second authority
    if authority.data != NULL:
        if host.data != NULL and (host.size != authority.size or memcmp(host.data, authority.data, host.size) != 0):
            return FAILURE_BAD_HOST
        host[0] = authority[0]
    if host.size == 0:
        return FAILURE_BAD_HOST
    if is_connect[0] and not is_text(&pseudo[PSEUDO_PROTOCOL], b"websocket", 9):
        return FAILURE_METHOD_NOT_SUPPORTED
    return FAILURE_NONE


cdef bint find_field(const Buffer* fields, const char* wanted, uint32_t size, Text* value) noexcept nogil:
    # The first field called so of a header list, also where the rest of it is wrong or was too much. NULL is an empty list.
    cdef:
        Text name
        uint32_t at
    if fields == NULL:
        return False
    at = fields.start
    while at < fields.end:
        at = next_field(fields, at, &name, value)
        if is_text(&name, wanted, size):
            return True
    return False


cdef bint has_field(const Buffer* fields, const char* name, uint32_t size) noexcept nogil:
    cdef Text value
    return find_field(fields, name, size, &value)


cdef bint asks_head(const Buffer* fields) noexcept nogil:
    # Whether the method is HEAD.
    cdef Text value
    return find_field(fields, b":method", 7, &value) and is_text(&value, b"HEAD", 4)


cdef bint asks_safely(const Buffer* fields) noexcept nogil:
    # Whether the method is one that changes nothing (RFC 9110 section 9.2.1), but for TRACE.
    cdef Text value
    return find_field(fields, b":method", 7, &value) and (is_text(&value, b"GET", 3) or is_text(&value, b"HEAD", 4) or is_text(&value, b"OPTIONS", 7))


cdef bint asks_grpc(const Buffer* fields) noexcept nogil:
    # As grpc.pxd: is_grpc, of a list of which there is no head.
    cdef Text value
    return find_field(fields, b"content-type", 12, &value) and is_grpc_type(value.data, value.size)


cdef void put_websocket_key(Engine* engine, Writer* out) noexcept nogil:
    # 16 random octets, as HTTP/1.1 wants them: HTTP/2 has no such field (RFC 8441 section 5).
    cdef:
        char key[24]
        uint32_t i
    for i in range(21):
        key[i] = BASE64[next_random(engine) >> 58]
    key[21] = BASE64[next_random(engine) >> 62 << 4]            # the last two bits of 128
    key[22] = key[23] = c"="
    put(out, b"Sec-WebSocket-Key: ", 19)
    put(out, key, 24)
    put(out, b"\r\n", 2)


cdef void put_fields(const Buffer* fields, bint is_connect, Writer* out) noexcept nogil:
    # The regular fields but Host, with the crumbs of Cookie joined (RFC 9113 section 8.2.3).
    cdef:
        Text name, value
        uint32_t at = fields.start, id
        bint cookies = False
    while at < fields.end:
        at = next_field(fields, at, &name, &value)
        if name.data[0] == c":":
            continue
        id = header_id(name.data, name.size)
        if id == HEADER_HOST or id == HEADER_HTTP2_SETTINGS or (is_connect and is_text(&name, b"sec-websocket-key", 17)):
            continue
        if id == HEADER_COOKIE:
            cookies = True
            continue
        put(out, name.data, name.size)
        put(out, b": ", 2)
        put(out, value.data, value.size)
        put(out, b"\r\n", 2)
    if not cookies:
        return
    put(out, b"cookie: ", 8)
    cookies = False
    at = fields.start
    while at < fields.end:
        at = next_field(fields, at, &name, &value)
        if header_id(name.data, name.size) == HEADER_COOKIE:
            if cookies:
                put(out, b"; ", 2)
            put(out, value.data, value.size)
            cookies = True
    put(out, b"\r\n", 2)


cdef uint32_t make_request(Engine* engine, const Buffer* fields, int64_t body_bytes, Buffer** head, bint* is_connect) noexcept nogil:
    # The request head of this header list, as HTTP/1.1 has it: the caller's, in *head. Else a FAILURE_*. `body_bytes`: what the body has, where all
    # of it is here, or BODY_UNKNOWN. `is_connect`: it is a WebSocket (RFC 8441), which becomes an upgrade.
    cdef:
        Text pseudo[PSEUDOS]
        Text host
        Writer out
        Buffer* text
        bint has_length = False
        uint32_t failure, i
    for i in range(PSEUDOS):
        pseudo[i].data = NULL
        pseudo[i].size = 0
    host.data = NULL
    host.size = 0
    is_connect[0] = False
    if fields == NULL:
        return FAILURE_BAD_REQUEST_LINE         # an empty list
    failure = check_fields(fields, pseudo, &host, &has_length)
    if failure == FAILURE_NONE:
        failure = check_pseudo(pseudo, &host, is_connect)
    if failure == FAILURE_NONE and is_connect[0] and has_length:
        failure = FAILURE_BAD_HEADER            # what follows is a tunnel and no body
    if failure != FAILURE_NONE:
        return failure
    text = take_buffer(&engine.buffers, fields.end - fields.start + REQUEST_ROOM)
    if text == NULL:
        return FAILURE_OUT_OF_MEMORY
    out.at = text.data
    out.end = text.data + text.capacity
    out.overflow = False
    if is_connect[0]:
        put(&out, b"GET", 3)
    else:
        put(&out, pseudo[PSEUDO_METHOD].data, pseudo[PSEUDO_METHOD].size)
    put(&out, b" ", 1)
    put(&out, pseudo[PSEUDO_PATH].data, pseudo[PSEUDO_PATH].size)
    put(&out, b" HTTP/1.1\r\nhost: ", 17)
    put(&out, host.data, host.size)
    put(&out, b"\r\n", 2)
    put_fields(fields, is_connect[0], &out)
    if is_connect[0]:
        put(&out, b"connection: upgrade\r\nupgrade: websocket\r\n", 41)
        put_websocket_key(engine, &out)
    elif not has_length:
        if body_bytes == BODY_UNKNOWN:
            put(&out, b"transfer-encoding: chunked\r\n", 28)
        elif body_bytes > 0:
            put(&out, b"content-length: ", 16)
            put_number(&out, <uint64_t>body_bytes)
            put(&out, b"\r\n", 2)
    put(&out, b"\r\n", 2)
    if out.overflow:                            # REQUEST_ROOM is enough, so this is not reached
        return_buffer(&engine.buffers, text)
        return FAILURE_OUT_OF_MEMORY
    text.end = <uint32_t>(out.at - text.data)
    head[0] = text
    return FAILURE_NONE


cdef bint make_trailers(BufferPool* buffers, const Buffer* fields, Buffer** trailers) noexcept nogil:
    # The trailer section of these fields, with its empty line: the caller's, in *trailers; NULL where there are none. False: they are malformed,
    # or out of memory.
    cdef:
        Text name, value
        Writer out
        Head checked
        Buffer* text
        uint32_t at
    trailers[0] = NULL
    if fields == NULL:
        return True
    text = take_buffer(buffers, fields.end - fields.start + REQUEST_ROOM)
    if text == NULL:
        return False
    out.at = text.data
    out.end = text.data + text.capacity
    out.overflow = False
    at = fields.start
    while at < fields.end:
        at = next_field(fields, at, &name, &value)
        if not is_name(&name) or not is_value(&value):      # ":" is in no name, so no pseudo-header field passes either
            return_buffer(buffers, text)
            return False
        put(&out, name.data, name.size)
        put(&out, b": ", 2)
        put(&out, value.data, value.size)
        put(&out, b"\r\n", 2)
    put(&out, b"\r\n", 2)
    text.end = <uint32_t>(out.at - text.data)
    if out.overflow or parse_trailers(&checked, text.data, text.end) != <int>text.end:
        return_buffer(buffers, text)
        return False
    trailers[0] = text
    return True


cdef const char* response_phrase(uint32_t status) noexcept nogil:
    # HTTP/2 has none, and HTTP/1.1 may do without; people read the usual ones in logs.
    if status == 200:
        return b"OK"
    if status == 201:
        return b"Created"
    if status == 204:
        return b"No Content"
    if status == 206:
        return b"Partial Content"
    if status == 302:
        return b"Found"
    if status == 304:
        return b"Not Modified"
    if status == 404:
        return b"Not Found"
    return b""


cdef bint read_length(const Text* value, int64_t* length) noexcept nogil:
    # Digits only. False: it is none, or too large.
    cdef uint32_t i
    length[0] = 0
    for i in range(value.size):
        if not c"0" <= value.data[i] <= c"9" or i == MAX_LENGTH_DIGITS:
            return False
        length[0] = length[0] * 10 + (value.data[i] - c"0")
    return value.size != 0


cdef bint check_response(const Buffer* fields, uint32_t* status, int64_t* length) noexcept nogil:
    # Whether it is a response's (RFC 9113 sections 8.2 and 8.3.2): :status first and alone of its kind. *length: of its body; -1 = not said.
    cdef:
        Text name, value
        uint32_t at, id
    length[0] = -1
    if fields == NULL:
        return False
    at = next_field(fields, fields.start, &name, &value)
    if not is_text(&name, b":status", 7) or value.size != 3 or not c"1" <= value.data[0] <= c"9" or not c"0" <= value.data[1] <= c"9" \
            or not c"0" <= value.data[2] <= c"9":
        return False
    status[0] = <uint32_t>((value.data[0] - c"0") * 100 + (value.data[1] - c"0") * 10 + (value.data[2] - c"0"))
    while at < fields.end:
        at = next_field(fields, at, &name, &value)
        if not is_name(&name) or not is_value(&value):      # ":" is in no name, so no other pseudo-header field passes
            return False
        id = header_id(name.data, name.size)
        if (HOP_BY_HOP >> id) & 1:
            return False
        if id == HEADER_CONTENT_LENGTH and (length[0] >= 0 or not read_length(&value, length)):
            return False
    return status[0] != 101                     # HTTP/2 has no such answer (RFC 9113 section 8.6)


cdef void put_websocket_accept(const AnswerTo* request, Writer* out) noexcept nogil:
    # What a server of HTTP/1.1 answers to a WebSocket's handshake (RFC 6455 section 4.2.2); HTTP/2 does without.
    cdef:
        char text[MAX_KEY_BYTES + 36]
        unsigned char digest[21]
        uint32_t i, bits
    put(out, b"connection: upgrade\r\nupgrade: websocket\r\n", 41)
    if request.key == NULL or request.key_size > MAX_KEY_BYTES:
        return
    memcpy(text, request.key, request.key_size)
    memcpy(text + request.key_size, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36)
    digest[20] = 0
    if not digest_sha1(text, request.key_size + 36, digest):
        return
    put(out, b"sec-websocket-accept: ", 22)
    for i in range(7):                          # 20 octets: six times three, and two
        bits = <uint32_t>digest[3 * i] << 16 | <uint32_t>digest[3 * i + 1] << 8 | digest[3 * i + 2]
        text[4 * i] = BASE64[bits >> 18]
        text[4 * i + 1] = BASE64[bits >> 12 & 63]
        text[4 * i + 2] = BASE64[bits >> 6 & 63]
        text[4 * i + 3] = BASE64[bits & 63]
    text[27] = c"="
    put(out, text, 28)
    put(out, b"\r\n", 2)


cdef void put_response(const Buffer* fields, uint32_t status, const AnswerTo* request, bint ended, int64_t length, Writer* out) noexcept nogil:
    # A response's head as HTTP/1.1 has it, of a list that has been checked.
    cdef:
        Text name, value
        uint32_t at = next_field(fields, fields.start, &name, &value)
        bint switches = request.is_connect and status // 100 == 2
        const char* phrase = response_phrase(status)
    if switches:
        put(out, b"HTTP/1.1 101 Switching Protocols\r\n", 34)
        put_websocket_accept(request, out)
    else:
        put(out, b"HTTP/1.1 ", 9)
        put(out, value.data, 3)
        put(out, b" ", 1)
        put(out, phrase, strlen(phrase))
        put(out, b"\r\n", 2)
    while at < fields.end:
        at = next_field(fields, at, &name, &value)
        if switches and (header_id(name.data, name.size) == HEADER_CONTENT_LENGTH or is_text(&name, b"sec-websocket-accept", 20)):
            continue
        put(out, name.data, name.size)
        put(out, b": ", 2)
        put(out, value.data, value.size)
        put(out, b"\r\n", 2)
    if ended and length < 0 and not switches and not request.is_head and status >= 200 and status != 204 and status != 304:
        put(out, b"content-length: 0\r\n", 19)          # so that it ends with its head for the client too
    put(out, b"\r\n", 2)


cdef bint make_response(BufferPool* buffers, const Buffer* fields, const AnswerTo* request, bint ended, Buffer** heads, uint32_t* status,
                        int64_t* body_bytes) noexcept nogil:
    # Appends the response head of this list, as HTTP/1.1 has it, to *heads, which the caller owns. `ended`: nothing follows it. *body_bytes: what its
    # body has to have, -1 = whatever comes. False: it is malformed, too much, or out of memory.
    cdef:
        Writer out
        Buffer* text
        int64_t length = -1
        bint fits
    if not check_response(fields, status, &length):
        return False
    body_bytes[0] = length
    if request.is_connect and status[0] // 100 == 2:
        body_bytes[0] = -1                      # a tunnel
    elif request.is_head or status[0] < 200 or status[0] == 204 or status[0] == 304:
        body_bytes[0] = 0
    elif ended:
        if length > 0:
            return False                        # RFC 9113 section 8.1.1
        body_bytes[0] = 0
    text = take_buffer(buffers, fields.end - fields.start + REQUEST_ROOM)
    if text == NULL:
        return False
    out.at = text.data
    out.end = text.data + text.capacity
    out.overflow = False
    put_response(fields, status[0], request, ended, length, &out)
    text.end = <uint32_t>(out.at - text.data)
    fits = not out.overflow and text.end <= MAX_HEAD_BYTES
    if fits and heads[0] == NULL:
        heads[0] = text
        return True
    fits = fits and heads[0].end - heads[0].start + text.end <= MAX_HEAD_BYTES and append_bytes(buffers, heads, text.data, text.end)
    return_buffer(buffers, text)
    return fits


cdef inline const char* read_line(const char* at, const char* end, Text* name, Text* value) noexcept nogil:
    # Reads a line of a head of ours, name and value without the white space around it, and returns where the next one is.
    cdef:
        const char* line_feed = <const char*>memchr(at, c"\n", <size_t>(end - at))
        const char* colon = <const char*>memchr(at, c":", <size_t>(line_feed - at))
    name.data = at
    name.size = <uint32_t>(colon - at)
    colon += 1
    while colon < line_feed - 1 and (colon[0] == c" " or colon[0] == c"\t"):
        colon += 1
    value.data = colon
    value.size = <uint32_t>(line_feed - 1 - colon)
    while value.size and colon[value.size - 1] in (c" ", c"\t"):
        value.size -= 1
    return line_feed + 1


cdef inline void set_field(nghttp2_nv* field, const char* name, size_t name_size, const char* value, size_t value_size) noexcept nogil:
    field.name = <uint8_t*>name
    field.namelen = name_size
    field.value = <uint8_t*>value
    field.valuelen = value_size
    field.flags = 0


cdef uint32_t list_fields(const char* text, uint32_t size, nghttp2_nv* fields) noexcept nogil:
    # Lists the lines of a response's head of ours, or of a trailer section, in `fields` (MAX_SENT_FIELDS), borrowed from `text`; names keep their
    # case, as nghttp2 lowers it when it copies them. Without the fields of one connection, and in trailers without all that mean something to us
    # (may_be_trailer). A head's status line becomes :status: 200 instead of 101, the answer to a WebSocket's handshake. 0: too many.
    cdef:
        const char* at = text
        const char* end = text + size
        Text name, value
        uint32_t n = 0, dropped = <uint32_t>-2      # all but HEADER_OTHER
        bint switched = False
    if size > 12 and memcmp(at, b"HTTP/1.1 ", 9) == 0:
        switched = memcmp(at + 9, b"101", 3) == 0
        set_field(&fields[0], b":status", 7, at + 9, 3)
        if switched:
            fields[0].value = <uint8_t*><const char*>b"200"
        n = 1
        dropped = HOP_BY_HOP
        at = <const char*>memchr(at, c"\n", <size_t>(end - at)) + 1
    while at < end and at[0] != c"\r":
        at = read_line(at, end, &name, &value)
        if (dropped >> header_id(name.data, name.size)) & 1 or (switched and name.size == 20 and same_name(name.data, b"sec-websocket-accept", 20)):
            continue
        if n == MAX_SENT_FIELDS:
            return 0
        set_field(&fields[n], name.data, name.size, value.data, value.size)
        n += 1
    return n


cdef uint32_t list_request(const char* text, uint32_t size, bint is_tls, bint wants_trailers, bint is_connect, nghttp2_nv* fields) noexcept nogil:
    # As list_fields, of a request's head of ours. Host becomes :authority; `wants_trailers`: the client can do with them (TE), which gRPC asks for;
    # `is_connect`: it is a WebSocket, which HTTP/2 opens with another method (RFC 8441 section 5).
    cdef:
        const char* end = text + size
        const char* target = <const char*>memchr(text, c" ", size) + 1
        const char* at = <const char*>memchr(target, c" ", <size_t>(end - target))
        Text name, value
        uint32_t n = 4, id
    set_field(&fields[0], b":method", 7, text, <size_t>(target - 1 - text))
    set_field(&fields[1], b":scheme", 7, b"https", 5 if is_tls else 4)       # "http" is how it begins
    set_field(&fields[2], b":authority", 10, b"", 0)
    set_field(&fields[3], b":path", 5, target, <size_t>(at - target))
    if is_connect:
        set_field(&fields[0], b":method", 7, b"CONNECT", 7)
        set_field(&fields[4], b":protocol", 9, b"websocket", 9)
        n = 5
    at = <const char*>memchr(at, c"\n", <size_t>(end - at)) + 1
    while at < end and at[0] != c"\r":
        at = read_line(at, end, &name, &value)
        id = header_id(name.data, name.size)
        if id == HEADER_HOST:
            fields[2].value = <uint8_t*>value.data
            fields[2].valuelen = value.size
        elif not ((HOP_BY_HOP | 1 << HEADER_TE | 1 << HEADER_HTTP2_SETTINGS) >> id) & 1 \
                and not (is_connect and name.size == 17 and same_name(name.data, b"sec-websocket-key", 17)):
            if n == MAX_SENT_FIELDS - 1:
                return 0
            set_field(&fields[n], name.data, name.size, value.data, value.size)
            n += 1
    if wants_trailers:
        set_field(&fields[n], b"te", 2, b"trailers", 8)
        n += 1
    if fields[2].valuelen == 0:                 # an empty Host, or none: no authority, rather than one that is empty (RFC 9113 section 8.3.1)
        n -= 1
        memmove(&fields[2], &fields[3], (n - 2) * sizeof(nghttp2_nv))
    return n


cdef const char* find_websocket_key(const Head* head, uint32_t* size) noexcept nogil:
    # The Sec-WebSocket-Key of a request; NULL: it has none.
    cdef uint32_t i
    for i in range(head.n_fields):
        if head.fields[i].name_size == 17 and same_name(head.data + head.fields[i].name, b"sec-websocket-key", 17):
            size[0] = head.fields[i].value_size
            return head.data + head.fields[i].value
    return NULL


cdef bint is_websocket(const Head* head) noexcept nogil:
    # Whether the upgrade that it asks for is one, of a request that asks for one.
    cdef const HeaderField* field = &head.fields[head.upgrade_field]
    return field.value_size == 9 and same_name(head.data + field.value, b"websocket", 9)


cdef bint accepts_trailers(const Head* head) noexcept nogil:
    # Whether the client says that trailers are welcome (RFC 9110 section 10.1.4).
    cdef:
        const HeaderField* field
        uint32_t i, k
    if not (head.seen >> HEADER_TE) & 1:
        return False
    for i in range(head.n_fields):
        field = &head.fields[i]
        if field.id != HEADER_TE:
            continue
        for k in range(field.value_size):
            if field.value_size - k >= 8 and same_name(head.data + field.value + k, b"trailers", 8) \
                    and (k == 0 or head.data[field.value + k - 1] in (c" ", c",", c"\t")) \
                    and (k + 8 == field.value_size or head.data[field.value + k + 8] in (c" ", c",", c"\t", c";")):
                return True
    return False
