"""HTTP/1.1 heads, requests and responses, strict per RFC 9112 and 9110: what is ambiguous is refused.

A parse works on the bytes received so far and copies nothing: a Head holds offsets into them. It is stateless; a head that
comes in pieces is parsed again when another line has ended, which the codec bounds (http1.pyx). Never reads past `size`.
Oracle: h11 (tests/property/test_http1_head.py) and hand-picked smuggling cases (tests/conformance/).
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastlb.data_plane.failure cimport (FAILURE_BAD_FRAMING, FAILURE_BAD_HEADER, FAILURE_BAD_HOST, FAILURE_BAD_REQUEST_LINE,
                                        FAILURE_BAD_RESPONSE, FAILURE_BAD_TARGET, FAILURE_BAD_VERSION, FAILURE_HEAD_TOO_LARGE,
                                        FAILURE_METHOD_NOT_SUPPORTED, FAILURE_RESPONSE_HEAD_TOO_LARGE, FAILURE_TARGET_TOO_LONG,
                                        FAILURE_UNKNOWN_TRANSFER_CODING)
from fastlb.data_plane.system cimport likely, memchr, memcmp, unlikely
from fastlb.data_plane.types cimport (FIELD_DROPPED, FRAME_CHUNKED, FRAME_LENGTH, FRAME_NONE, FRAME_UNTIL_CLOSE, HEAD_ABSOLUTE_TARGET,
                                      HEAD_CLOSE, HEAD_DROP_LISTED, HEAD_EXPECT_CONTINUE, HEAD_H2C, HEAD_KEEP_ALIVE, HEAD_PATH_IS_RAW,
                                      HEAD_UPGRADE, HEADER_CONNECTION, HEADER_CONTENT_LENGTH, HEADER_COOKIE, HEADER_DATE, HEADER_EXPECT,
                                      HEADER_HOST, HEADER_HTTP2_SETTINGS, HEADER_KEEP_ALIVE, HEADER_OTHER, HEADER_PROXY_CONNECTION,
                                      HEADER_SET_COOKIE, HEADER_TE, HEADER_TRAILER, HEADER_TRANSFER_ENCODING, HEADER_UPGRADE,
                                      HEADER_X_FORWARDED_FOR,
                                      HEADER_X_FORWARDED_HOST, HEADER_X_FORWARDED_PROTO, HEADER_X_REQUEST_ID, MAX_HEAD_BYTES,
                                      MAX_HEADERS, MAX_TRAILERS, METHOD_CONNECT,
                                      METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_OTHER, METHOD_POST, METHOD_PUT,
                                      METHOD_TRACE, NO_INDEX, Buffer, Engine, Exchange, Head, HeaderField, HeadLimits)

# Character classes, filled when the module is imported and never written again.
cdef enum:
    CHAR_TOKEN = 1                  # RFC 9110 section 5.6.2
    CHAR_TARGET = 2                 # visible ASCII without "#": a fragment is never sent (RFC 9112 section 3.2)
    CHAR_HOST = 4                   # reg-name and port characters of RFC 3986, without brackets
    CHAR_SPECIAL = 8                # "%", "/", "?": what decides whether a path is already normal
    CHAR_HEX = 16

cdef uint8_t CHARS[256]

cdef enum:
    # Removed from every message (RFC 9110 section 7.6.1, RFC 7540 section 3.2.1); the proxy writes its own where needed.
    HOP_BY_HOP = (1 << HEADER_CONNECTION | 1 << HEADER_KEEP_ALIVE | 1 << HEADER_PROXY_CONNECTION | 1 << HEADER_TE
                  | 1 << HEADER_TRANSFER_ENCODING | 1 << HEADER_UPGRADE | 1 << HEADER_HTTP2_SETTINGS)
    # Never dropped because a Connection field names them: a client could otherwise make the backend see another message.
    NOT_LISTABLE = 1 << HEADER_HOST | 1 << HEADER_CONTENT_LENGTH | 1 << HEADER_TRANSFER_ENCODING | 1 << HEADER_EXPECT
    MAX_CONTENT_LENGTH_DIGITS = 18  # fits int64
    MAX_CONNECTION_NAMES = 64       # fields named in Connection; real messages name one to three


def _fill_classes() -> None:
    for byte in range(256):
        char = chr(byte)
        CHARS[byte] = 0
        if byte < 128 and (char.isalnum() or char in "!#$%&'*+-.^_`|~"):
            CHARS[byte] |= CHAR_TOKEN
        if 0x21 <= byte <= 0x7E and char != "#":
            CHARS[byte] |= CHAR_TARGET
        if byte < 128 and (char.isalnum() or char in "-._~%!$&'()*+,;="):
            CHARS[byte] |= CHAR_HOST
        if char in "%/?":
            CHARS[byte] |= CHAR_SPECIAL
        if char in "0123456789abcdefABCDEF":
            CHARS[byte] |= CHAR_HEX


_fill_classes()


cdef bint same_name(const char* name, const char* lower, uint32_t size) noexcept nogil:
    # Case-insensitive; `lower` is lower case and holds token characters only, for which setting bit 5 folds case.
    cdef uint32_t i
    for i in range(size):
        if (name[i] | 0x20) != lower[i]:
            return False
    return True


cdef inline uint32_t name_id(const char* name, uint32_t size) noexcept nogil:
    # Which of the fields we look at this is: by size first, so that most names cost one comparison.
    cdef char first = name[0] | 0x20
    if size == 2:
        return HEADER_TE if same_name(name, b"te", 2) else HEADER_OTHER
    if size == 4:
        if first == c"h":
            return HEADER_HOST if same_name(name, b"host", 4) else HEADER_OTHER
        return HEADER_DATE if same_name(name, b"date", 4) else HEADER_OTHER
    if size == 6:
        if first == c"c":
            return HEADER_COOKIE if same_name(name, b"cookie", 6) else HEADER_OTHER
        return HEADER_EXPECT if same_name(name, b"expect", 6) else HEADER_OTHER
    if size == 7:
        if first == c"u":
            return HEADER_UPGRADE if same_name(name, b"upgrade", 7) else HEADER_OTHER
        return HEADER_TRAILER if same_name(name, b"trailer", 7) else HEADER_OTHER
    if size == 10:
        if first == c"c":
            return HEADER_CONNECTION if same_name(name, b"connection", 10) else HEADER_OTHER
        if first == c"s":
            return HEADER_SET_COOKIE if same_name(name, b"set-cookie", 10) else HEADER_OTHER
        return HEADER_KEEP_ALIVE if same_name(name, b"keep-alive", 10) else HEADER_OTHER
    if size == 12:
        return HEADER_X_REQUEST_ID if same_name(name, b"x-request-id", 12) else HEADER_OTHER
    if size == 14:
        if first == c"c":
            return HEADER_CONTENT_LENGTH if same_name(name, b"content-length", 14) else HEADER_OTHER
        return HEADER_HTTP2_SETTINGS if same_name(name, b"http2-settings", 14) else HEADER_OTHER
    if size == 15:
        return HEADER_X_FORWARDED_FOR if same_name(name, b"x-forwarded-for", 15) else HEADER_OTHER
    if size == 16:
        if first == c"p":
            return HEADER_PROXY_CONNECTION if same_name(name, b"proxy-connection", 16) else HEADER_OTHER
        return HEADER_X_FORWARDED_HOST if same_name(name, b"x-forwarded-host", 16) else HEADER_OTHER
    if size == 17:
        if first == c"t":
            return HEADER_TRANSFER_ENCODING if same_name(name, b"transfer-encoding", 17) else HEADER_OTHER
        return HEADER_X_FORWARDED_PROTO if same_name(name, b"x-forwarded-proto", 17) else HEADER_OTHER
    return HEADER_OTHER


cdef inline bint clean_value(const char* value, uint32_t size) noexcept nogil:
    # No control character but HTAB (RFC 9110 section 5.5). Without branches, so that the compiler vectorises it.
    cdef:
        uint32_t i
        uint8_t bad = 0, byte
    for i in range(size):
        byte = <uint8_t>value[i]
        bad |= (<uint8_t>(byte < 0x20) & <uint8_t>(byte != 0x09)) | <uint8_t>(byte == 0x7F)
    return bad == 0


cdef int parse_fields(Head* head, uint32_t at, uint32_t size, uint32_t max_fields) noexcept nogil:
    # Field lines from `at` to the empty line. Fills fields, seen, size. HEAD_INCOMPLETE, the size, or -FAILURE_*
    # (BAD_HEADER, HEAD_TOO_LARGE).
    cdef:
        const char* data = head.data
        const char* line_feed
        HeaderField* field
        uint32_t start, colon, value, end, n = 0, id
    head.fields_start = at
    while True:
        if at >= size:
            return HEAD_INCOMPLETE
        if data[at] == c"\r":
            if at + 1 >= size:
                return HEAD_INCOMPLETE
            if data[at + 1] != c"\n":
                return -<int>FAILURE_BAD_HEADER
            head.n_fields = n
            head.size = at + 2
            return <int>(at + 2)
        start = at
        while at < size and CHARS[<uint8_t>data[at]] & CHAR_TOKEN:
            at += 1
        if at == size:
            return HEAD_INCOMPLETE
        if data[at] != c":" or at == start:     # also obs-fold, space before the colon, a bare LF, NUL
            return -<int>FAILURE_BAD_HEADER
        colon = at
        at += 1
        line_feed = <const char*>memchr(data + at, c"\n", size - at)
        end = size if line_feed == NULL else <uint32_t>(line_feed - data)
        if line_feed == NULL:
            # Refuse what can never become right, without waiting for the rest of the line; a CR may still be followed by its LF.
            if end > at and data[end - 1] == c"\r":
                end -= 1
            return HEAD_INCOMPLETE if clean_value(data + at, end - at) else -<int>FAILURE_BAD_HEADER
        if data[end - 1] != c"\r":
            return -<int>FAILURE_BAD_HEADER
        value = at
        at = end + 1
        end -= 1
        while value < end and (data[value] == c" " or data[value] == c"\t"):
            value += 1
        while end > value and (data[end - 1] == c" " or data[end - 1] == c"\t"):
            end -= 1
        if unlikely(not clean_value(data + value, end - value)):
            return -<int>FAILURE_BAD_HEADER
        if unlikely(n == max_fields or colon - start > 0xFFFF):
            return -<int>FAILURE_HEAD_TOO_LARGE
        field = &head.fields[n]
        n += 1
        field.name = start
        field.name_size = <uint16_t>(colon - start)
        field.value = value
        field.value_size = end - value
        field.end = at
        id = name_id(data + start, colon - start)
        field.id = <uint8_t>id
        field.flags = FIELD_DROPPED if (<uint64_t>HOP_BY_HOP >> id) & 1 else 0
        if id != HEADER_OTHER:
            # Fields that may appear only once are refused here when they come again.
            if (head.seen >> id) & 1:
                if id == HEADER_HOST:
                    return -<int>FAILURE_BAD_HOST
                if id == HEADER_CONTENT_LENGTH or id == HEADER_TRANSFER_ENCODING:
                    return -<int>FAILURE_BAD_FRAMING
            head.seen |= <uint64_t>1 << id


cdef inline uint32_t find_field(const Head* head, uint32_t id, uint32_t start) noexcept nogil:
    cdef uint32_t i
    for i in range(start, head.n_fields):
        if head.fields[i].id == id:
            return i
    return NO_INDEX


cdef bint next_token(const char* text, uint32_t size, uint32_t* at, uint32_t* start, uint32_t* token_size) noexcept nogil:
    # The next element of a comma-separated list, without white space around it; empty elements are skipped.
    cdef uint32_t end
    while at[0] < size and (text[at[0]] == c"," or text[at[0]] == c" " or text[at[0]] == c"\t"):
        at[0] += 1
    if at[0] >= size:
        return False
    start[0] = at[0]
    while at[0] < size and text[at[0]] != c",":
        at[0] += 1
    end = at[0]
    while end > start[0] and (text[end - 1] == c" " or text[end - 1] == c"\t"):
        end -= 1
    token_size[0] = end - start[0]
    return True


cdef void drop_named(Head* head, const char* name, uint32_t size) noexcept nogil:
    # A Connection field names `name`: every field so called stays on this hop.
    cdef:
        uint32_t i, k
        HeaderField* field
    for i in range(head.n_fields):
        field = &head.fields[i]
        if field.name_size != size or (<uint64_t>NOT_LISTABLE >> field.id) & 1:
            continue
        for k in range(size):
            if (head.data[field.name + k] | 0x20) != (name[k] | 0x20):
                break
        else:
            field.flags |= FIELD_DROPPED
            head.flags |= HEAD_DROP_LISTED


cdef bint read_connection(Head* head) noexcept nogil:
    # All Connection fields: close, keep-alive, upgrade, and names of further hop-by-hop fields. False: more names than any real
    # message has, each of which costs a walk over all fields.
    cdef:
        uint32_t i = find_field(head, HEADER_CONNECTION, 0)
        uint32_t at, start = 0, size = 0, n_names = 0
        const char* value
    head.connection_field = i
    while i != NO_INDEX:
        value = head.data + head.fields[i].value
        at = 0
        while next_token(value, head.fields[i].value_size, &at, &start, &size):
            if size == 5 and same_name(value + start, b"close", 5):
                head.flags |= HEAD_CLOSE
            elif size == 10 and same_name(value + start, b"keep-alive", 10):
                head.flags |= HEAD_KEEP_ALIVE
            elif size == 7 and same_name(value + start, b"upgrade", 7):
                head.flags |= HEAD_UPGRADE
            else:
                n_names += 1
                if n_names > MAX_CONNECTION_NAMES:
                    return False
                drop_named(head, value + start, size)
        i = find_field(head, HEADER_CONNECTION, i + 1)
    return True


cdef int read_content_length(Head* head) noexcept nogil:
    # Digits only: no sign, no space inside, no list (RFC 9112 section 6.3).
    cdef:
        uint32_t i = find_field(head, HEADER_CONTENT_LENGTH, 0)
        uint32_t k, size = head.fields[i].value_size
        const char* value = head.data + head.fields[i].value
        int64_t length = 0
    if size == 0 or size > MAX_CONTENT_LENGTH_DIGITS:
        return -<int>FAILURE_BAD_FRAMING
    for k in range(size):
        if value[k] < c"0" or value[k] > c"9":
            return -<int>FAILURE_BAD_FRAMING
        length = length * 10 + (value[k] - c"0")
    head.content_length = length
    return 0


cdef int read_transfer_encoding(Head* head) noexcept nogil:
    # Exactly "chunked" is understood. Chunked anywhere but last is ambiguous framing; any other coding is unknown.
    cdef:
        uint32_t i = find_field(head, HEADER_TRANSFER_ENCODING, 0)
        const char* value = head.data + head.fields[i].value
        uint32_t at = 0, start = 0, size = 0, n = 0
        bint chunked_last = False, chunked_before = False, unknown = False
    if likely(head.fields[i].value_size == 7 and same_name(value, b"chunked", 7)):
        return 0
    while next_token(value, head.fields[i].value_size, &at, &start, &size):
        n += 1
        if chunked_last:
            chunked_before = True
        chunked_last = size == 7 and same_name(value + start, b"chunked", 7)
        if not chunked_last:
            unknown = True
    if n == 0 or chunked_before or not unknown:  # "chunked, gzip", "chunked, chunked", ",chunked"
        return -<int>FAILURE_BAD_FRAMING
    return -<int>FAILURE_UNKNOWN_TRANSFER_CODING


cdef bint valid_authority(const char* text, uint32_t size) noexcept nogil:
    # uri-host [":" port] (RFC 3986); no user information. Empty is valid (RFC 9112 section 3.2).
    cdef:
        uint32_t at = 0, digits = 0
    if size and text[0] == c"[":
        at = 1
        while at < size and (CHARS[<uint8_t>text[at]] & CHAR_HEX or text[at] == c":" or text[at] == c"."):
            at += 1
        if at < 4 or at >= size or text[at] != c"]":     # "[::]" is the shortest
            return False
        at += 1
    else:
        while at < size and CHARS[<uint8_t>text[at]] & CHAR_HOST:
            at += 1
    if at == size:
        return True
    if text[at] != c":":
        return False
    at += 1
    while at < size and c"0" <= text[at] <= c"9":
        at += 1
        digits += 1
    return at == size and digits <= 5


cdef inline uint32_t method_of(const char* text, uint32_t size) noexcept nogil:
    if size == 3:
        if memcmp(text, b"GET", 3) == 0:
            return METHOD_GET
        if memcmp(text, b"PUT", 3) == 0:
            return METHOD_PUT
    elif size == 4:
        if memcmp(text, b"POST", 4) == 0:
            return METHOD_POST
        if memcmp(text, b"HEAD", 4) == 0:
            return METHOD_HEAD
    elif size == 5:
        if memcmp(text, b"TRACE", 5) == 0:
            return METHOD_TRACE
    elif size == 6:
        if memcmp(text, b"DELETE", 6) == 0:
            return METHOD_DELETE
    elif size == 7:
        if memcmp(text, b"OPTIONS", 7) == 0:
            return METHOD_OPTIONS
        if memcmp(text, b"CONNECT", 7) == 0:
            return METHOD_CONNECT
    return METHOD_OTHER


cdef void scan_path(Head* head) noexcept nogil:
    # Finds the end of the path in origin, and whether it is normal as it stands: no "%", no "//", no "/.".
    cdef:
        const char* text = head.data + head.origin
        uint32_t at = 0, size = head.origin_size
        bint raw = True
    while at < size:
        if not CHARS[<uint8_t>text[at]] & CHAR_SPECIAL:
            at += 1
            continue
        if text[at] == c"?":
            break
        if text[at] == c"%" or (at + 1 < size and (text[at + 1] == c"/" or text[at + 1] == c".")):
            raw = False
        at += 1
    head.path_size = at
    if raw:
        head.flags |= HEAD_PATH_IS_RAW


cdef int read_target(Head* head) noexcept nogil:
    # origin-form, absolute-form and asterisk-form (RFC 9112 section 3.2).
    cdef:
        const char* text = head.data + head.target
        uint32_t size = head.target_size, at, authority
    if head.method == METHOD_CONNECT:
        return -<int>FAILURE_METHOD_NOT_SUPPORTED
    head.origin = head.target
    head.origin_size = size
    if likely(text[0] == c"/"):
        scan_path(head)
        return 0
    if size == 1 and text[0] == c"*":
        if head.method != METHOD_OPTIONS:
            return -<int>FAILURE_BAD_TARGET
        head.path_size = 1
        head.flags |= HEAD_PATH_IS_RAW
        return 0
    if size > 7 and same_name(text, b"http", 4) and memcmp(text + 4, b"://", 3) == 0:
        authority = 7
    elif size > 8 and same_name(text, b"https", 5) and memcmp(text + 5, b"://", 3) == 0:
        authority = 8
    else:
        return -<int>FAILURE_BAD_TARGET
    at = authority
    while at < size and text[at] != c"/" and text[at] != c"?":
        at += 1
    # An http target without a host is refused (RFC 9110 section 4.2.1), also with a port behind it.
    if at == authority or text[authority] == c":" or not valid_authority(text + authority, at - authority):
        return -<int>FAILURE_BAD_TARGET
    head.flags |= HEAD_ABSOLUTE_TARGET
    head.host = head.target + authority
    head.host_size = at - authority
    head.origin = head.target + at              # may be empty or begin with "?": written with "/" before it
    head.origin_size = size - at
    scan_path(head)
    return 0


cdef void clear_head(Head* head, const char* data) noexcept nogil:
    head.data = data
    head.size = 0
    head.n_fields = 0
    head.seen = 0
    head.content_length = -1
    head.flags = 0
    head.status = 0
    head.version = 1
    head.method = METHOD_OTHER
    head.framing = FRAME_NONE
    head.method_size = head.target = head.target_size = 0
    head.origin = head.origin_size = head.path_size = 0
    head.host = head.host_size = 0
    head.reason = head.reason_size = 0
    head.fields_start = 0
    head.connection_field = head.upgrade_field = NO_INDEX


cdef int read_version(const char* text, uint8_t* minor) noexcept nogil:
    # 8 bytes "HTTP/1.x". A higher minor version is treated as 1.1 (RFC 9110 section 2.5).
    if memcmp(text, b"HTTP/", 5) != 0 or text[6] != c"." or text[5] < c"0" or text[5] > c"9" or text[7] < c"0" or text[7] > c"9":
        return -<int>FAILURE_BAD_REQUEST_LINE
    if text[5] != c"1":
        return -<int>FAILURE_BAD_VERSION
    minor[0] = 0 if text[7] == c"0" else 1
    return 0


cdef int parse_request_line(Head* head, uint32_t size, const HeadLimits* limits) noexcept nogil:
    # method SP target SP HTTP/1.x CRLF. HEAD_INCOMPLETE, the offset behind it, or -FAILURE_*.
    cdef:
        const char* data = head.data
        uint32_t at = 0
        int result
    while at < size and CHARS[<uint8_t>data[at]] & CHAR_TOKEN:
        at += 1
    if at == size:
        return HEAD_INCOMPLETE if at <= 64 else -<int>FAILURE_BAD_REQUEST_LINE
    if at == 0 or at > 64 or data[at] != c" ":
        return -<int>FAILURE_BAD_REQUEST_LINE
    head.method_size = at
    head.method = <uint8_t>method_of(data, at)
    at += 1
    head.target = at
    while at < size and CHARS[<uint8_t>data[at]] & CHAR_TARGET:
        at += 1
    head.target_size = at - head.target
    if head.target_size > limits.max_target_bytes:
        return -<int>FAILURE_TARGET_TOO_LONG
    if at == size:
        return HEAD_INCOMPLETE
    if data[at] != c" " or head.target_size == 0:
        # "GET /\r\n" is HTTP/0.9; anything else is a character that no target holds.
        return -<int>(FAILURE_BAD_REQUEST_LINE if data[at] == c"\r" or data[at] == c"\n" or head.target_size == 0 else FAILURE_BAD_TARGET)
    at += 1
    if size - at < 10:
        # Wait for the rest, unless it is already wrong.
        if memcmp(data + at, b"HTTP/", size - at if size - at < 5 else 5) != 0 or memchr(data + at, c"\n", size - at) != NULL:
            return -<int>FAILURE_BAD_REQUEST_LINE
        return HEAD_INCOMPLETE
    result = read_version(data + at, &head.version)
    if result != 0:
        return result
    if data[at + 8] != c"\r" or data[at + 9] != c"\n":
        return -<int>FAILURE_BAD_REQUEST_LINE
    return <int>(at + 10)


cdef int parse_request(Head* head, const char* data, uint32_t size, const HeadLimits* limits) noexcept nogil:
    # Parses a request head at `data`. HEAD_INCOMPLETE, its size in bytes, or -FAILURE_*. Borrows `data` into head.
    cdef:
        int at, result
        uint32_t i, room = size if size < limits.max_bytes else limits.max_bytes
    clear_head(head, data)
    at = parse_request_line(head, size, limits)
    if at <= 0:
        if at == HEAD_INCOMPLETE and size >= limits.max_bytes:
            return -<int>FAILURE_HEAD_TOO_LARGE
        return at
    result = parse_fields(head, <uint32_t>at, room, limits.max_fields)
    if result <= 0:
        if result == HEAD_INCOMPLETE and size >= limits.max_bytes:
            return -<int>FAILURE_HEAD_TOO_LARGE
        return result
    # Framing first: nothing else matters when the end of the message is unclear.
    if (head.seen >> HEADER_TRANSFER_ENCODING) & 1:
        if (head.seen >> HEADER_CONTENT_LENGTH) & 1 or head.version == 0:
            return -<int>FAILURE_BAD_FRAMING
        at = read_transfer_encoding(head)
        if at != 0:
            return at
        head.framing = FRAME_CHUNKED
    elif (head.seen >> HEADER_CONTENT_LENGTH) & 1:
        at = read_content_length(head)
        if at != 0:
            return at
        head.framing = FRAME_LENGTH if head.content_length > 0 else FRAME_NONE
    at = read_target(head)
    if at != 0:
        return at
    if likely((head.seen >> HEADER_HOST) & 1):
        i = find_field(head, HEADER_HOST, 0)
        if not valid_authority(data + head.fields[i].value, head.fields[i].value_size):
            return -<int>FAILURE_BAD_HOST
        if head.flags & HEAD_ABSOLUTE_TARGET:
            head.fields[i].flags |= FIELD_DROPPED       # RFC 9112 section 3.2.2: replaced by the target's authority
        else:
            head.host = head.fields[i].value
            head.host_size = head.fields[i].value_size
    elif head.version == 1:
        return -<int>FAILURE_BAD_HOST
    if (head.seen >> HEADER_CONNECTION) & 1 and not read_connection(head):
        return -<int>FAILURE_BAD_HEADER
    if (head.seen >> HEADER_UPGRADE) & 1:
        head.upgrade_field = find_field(head, HEADER_UPGRADE, 0)
        # h2c would be a tunnel in which requests pass unseen; several Upgrade fields or HTTP/1.0 are no upgrade either.
        if mentions_h2c(head) or find_field(head, HEADER_UPGRADE, head.upgrade_field + 1) != NO_INDEX:
            head.flags |= HEAD_H2C
        if head.version == 0 or head.flags & HEAD_H2C:
            head.flags &= ~<uint16_t>HEAD_UPGRADE
    else:
        head.flags &= ~<uint16_t>HEAD_UPGRADE
    if (head.seen >> HEADER_EXPECT) & 1 and head.version == 1:
        i = find_field(head, HEADER_EXPECT, 0)
        if head.fields[i].value_size == 12 and same_name(data + head.fields[i].value, b"100-continue", 12):
            head.flags |= HEAD_EXPECT_CONTINUE
    return result


cdef bint mentions_h2c(const Head* head) noexcept nogil:
    cdef:
        const HeaderField* field = &head.fields[head.upgrade_field]
        uint32_t at = 0, start = 0, size = 0
    while next_token(head.data + field.value, field.value_size, &at, &start, &size):
        if size >= 3 and same_name(head.data + field.value + start, b"h2c", 3):
            return True
    return False


cdef int parse_status_line(Head* head, uint32_t size) noexcept nogil:
    # HTTP/1.x SP 3DIGIT [SP reason] CRLF. HEAD_INCOMPLETE, the offset behind it, or -FAILURE_*.
    cdef:
        const char* data = head.data
        const char* line_feed
        uint32_t end
    if size < 13:
        if memcmp(data, b"HTTP/1.", size if size < 7 else 7) != 0 or memchr(data, c"\n", size) != NULL:
            return -<int>FAILURE_BAD_RESPONSE
        return HEAD_INCOMPLETE
    if read_version(data, &head.version) != 0 or data[8] != c" ":
        return -<int>FAILURE_BAD_RESPONSE
    if (data[9] < c"1" or data[9] > c"9" or data[10] < c"0" or data[10] > c"9" or data[11] < c"0" or data[11] > c"9"
            or (data[12] != c" " and data[12] != c"\r")):
        return -<int>FAILURE_BAD_RESPONSE
    head.status = <uint16_t>((data[9] - c"0") * 100 + (data[10] - c"0") * 10 + (data[11] - c"0"))
    line_feed = <const char*>memchr(data + 12, c"\n", size - 12)
    if line_feed == NULL:
        return HEAD_INCOMPLETE
    end = <uint32_t>(line_feed - data)
    if data[end - 1] != c"\r":
        return -<int>FAILURE_BAD_RESPONSE
    head.reason = 12 if data[12] == c"\r" else 13
    head.reason_size = end - 1 - head.reason
    if not clean_value(data + head.reason, head.reason_size):
        return -<int>FAILURE_BAD_RESPONSE
    return <int>(end + 1)


cdef int parse_response(Head* head, const char* data, uint32_t size, const HeadLimits* limits, uint32_t request_method) noexcept nogil:
    # Parses a response head to a request of `request_method`, which decides whether a body follows (RFC 9112 section 6.3).
    # HEAD_INCOMPLETE, its size, or -FAILURE_BAD_RESPONSE or -FAILURE_RESPONSE_HEAD_TOO_LARGE.
    cdef:
        int at, result
        uint32_t room = size if size < limits.max_bytes else limits.max_bytes
    clear_head(head, data)
    at = parse_status_line(head, room)
    if at > 0:
        result = parse_fields(head, <uint32_t>at, room, limits.max_fields)
    else:
        result = at
    if result <= 0:
        if result == HEAD_INCOMPLETE:
            return HEAD_INCOMPLETE if size < limits.max_bytes else -<int>FAILURE_RESPONSE_HEAD_TOO_LARGE
        return -<int>(FAILURE_RESPONSE_HEAD_TOO_LARGE if result == -<int>FAILURE_HEAD_TOO_LARGE else FAILURE_BAD_RESPONSE)
    if (head.seen >> HEADER_CONNECTION) & 1 and not read_connection(head):
        return -<int>FAILURE_BAD_RESPONSE
    if (head.seen >> HEADER_UPGRADE) & 1:
        head.upgrade_field = find_field(head, HEADER_UPGRADE, 0)
    if (head.seen >> HEADER_CONTENT_LENGTH) & 1 and read_content_length(head) != 0:
        return -<int>FAILURE_BAD_RESPONSE
    if (head.seen >> HEADER_TRANSFER_ENCODING) & 1:
        if (head.seen >> HEADER_CONTENT_LENGTH) & 1 or head.version == 0 or read_transfer_encoding(head) != 0:
            return -<int>FAILURE_BAD_RESPONSE
    if request_method == METHOD_HEAD or head.status < 200 or head.status == 204 or head.status == 304:
        head.framing = FRAME_NONE
    elif (head.seen >> HEADER_TRANSFER_ENCODING) & 1:
        head.framing = FRAME_CHUNKED
    elif head.content_length >= 0:
        head.framing = FRAME_LENGTH if head.content_length > 0 else FRAME_NONE
    else:
        head.framing = FRAME_UNTIL_CLOSE
    return result


cdef int parse_trailers(Head* head, const char* data, uint32_t size) noexcept nogil:
    # The trailer section of a chunked body with its empty line. Its size, or -FAILURE_BAD_FRAMING.
    clear_head(head, data)
    cdef int result = parse_fields(head, 0, size, MAX_TRAILERS)
    return result if result > 0 else -<int>FAILURE_BAD_FRAMING


cdef bint may_be_trailer(const Head* head, uint32_t index) noexcept nogil:
    # Fields that decide framing, routing or trust are not taken from a trailer section (RFC 9110 section 6.5.1).
    return head.fields[index].id == HEADER_OTHER


# What was accepted once is parsed again whatever its listener's limits are by now.
cdef HeadLimits KEPT_LIMITS
KEPT_LIMITS.max_bytes = KEPT_LIMITS.max_target_bytes = MAX_HEAD_BYTES
KEPT_LIMITS.max_fields = MAX_HEADERS


cdef Head* kept_request(Engine* engine, Exchange* exchange) noexcept nogil:
    # The request head that an exchange keeps, in engine.request: as it stands there when nothing came between, else parsed again.
    # NULL: it keeps none any more.
    cdef:
        Head* head = &engine.request
        Buffer* kept = exchange.request_head
    if kept == NULL:
        return NULL
    if head.data != kept.data:
        parse_request(head, kept.data, kept.end, &KEPT_LIMITS)
    return head


cdef uint32_t header_id(const char* name, uint32_t size) noexcept nogil:
    return name_id(name, size) if size else <uint32_t>HEADER_OTHER
