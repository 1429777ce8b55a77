"""Response heads, as read and as sent on. Input: one byte (1 = small limits, 4 = to HEAD, 8 = close, 16 = HTTP/1.0), two bytes
where to cut, then the head.

Promises: as for request heads; and a client reads the same status and the same framing out of what it is sent.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastlb.data_plane.http1_head cimport parse_response
from fastlb.data_plane.http1_serialise cimport write_informational, write_response
from fastlb.data_plane.types cimport (FIELD_DROPPED, FRAME_CHUNKED, FRAME_NONE, FRAME_UNTIL_CLOSE, HEAD_CLOSE, HEAD_UPGRADE, HEADER_CONNECTION,
                                      HEADER_TRANSFER_ENCODING, HEADER_UPGRADE, METHOD_GET, METHOD_HEAD, X_HTTP_1_0, Connection, Engine,
                                      Exchange, Head, HeadLimits)
from tests.fuzz.expect cimport exact_copy, expect
from tests.fuzz.heads cimport check_clean, check_head, choose_limits, same_head
from tests.fuzz.plane cimport begin, open_plane

cdef Engine* engine


cdef void check_sent(const Head* head, uint32_t method, bint close, bint old) noexcept nogil:
    cdef:
        Exchange exchange
        Connection client
        Head again
        HeadLimits wide
        bint unknown = head.framing == FRAME_CHUNKED or head.framing == FRAME_UNTIL_CLOSE
        uint32_t size, i, allowed = 1 << HEADER_CONNECTION
        char* text
    if head.status == 101 and not (head.flags & HEAD_UPGRADE and (head.seen >> HEADER_UPGRADE) & 1):
        return                                  # refused by the exchange
    begin(engine, &exchange, &client)
    exchange.flags = X_HTTP_1_0 if old else 0
    close = close or (unknown and old)
    if head.status < 200 and head.status != 101:
        size = write_informational(engine, head)
    else:
        size = write_response(engine, &exchange, head, unknown and not old, close)
    expect(size > 0, b"a head within the limits can be sent")
    text = exact_copy(<const uint8_t*>engine.write_buffer, size)
    wide.max_bytes = 1 << 20
    wide.max_target_bytes = 0
    wide.max_fields = 256
    expect(parse_response(&again, text, size, &wide, method) == <int>size, b"what is sent is one whole head")
    expect(again.version == 1 and again.status == head.status, b"it is HTTP/1.1 with the same status")
    expect(again.reason_size == head.reason_size and memcmp(text + again.reason, head.data + head.reason, head.reason_size) == 0,
           b"the reason stays")
    if unknown:
        expect(again.framing == (FRAME_UNTIL_CLOSE if old else FRAME_CHUNKED), b"a body of unknown size ends as the client can see")
    else:
        expect(again.framing == head.framing, b"the framing stays")
        expect(again.framing == FRAME_NONE or again.content_length == head.content_length, b"the length stays")
    if head.status >= 200:
        expect((again.flags & HEAD_CLOSE != 0) == close, b"the client learns whether we close")
    if unknown and not old:
        allowed |= 1 << HEADER_TRANSFER_ENCODING
    if head.status == 101:
        allowed |= 1 << HEADER_UPGRADE
    for i in range(again.n_fields):
        expect(not again.fields[i].flags & FIELD_DROPPED or (allowed >> again.fields[i].id) & 1, b"only our hop-by-hop fields")
    free(text)


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        HeadLimits limits
        Head head, piece
        uint32_t cut, n, method
        int whole, part
        char* text
    if size < 3 or size > 0x10000:
        return 0
    limits = choose_limits(data[0] & 1)
    method = METHOD_HEAD if data[0] & 4 else METHOD_GET
    n = <uint32_t>size - 3
    cut = (data[1] | <uint32_t>data[2] << 8) % (n + 1)
    text = exact_copy(data + 3, n)
    whole = parse_response(&head, text, n, &limits, method)
    if whole > 0:
        expect(<uint32_t>whole == head.size, b"the result is the size")
        check_head(&head, text, n, limits.max_fields)
        expect(head.status >= 100 and head.status <= 999, b"a status has three digits")
        expect(head.reason + head.reason_size + 2 == head.fields_start, b"the reason ends the status line")
        check_clean(text + head.reason, head.reason_size, b"a reason is clean")
        check_sent(&head, method, data[0] & 8 != 0, data[0] & 16 != 0)
        cut = cut if data[0] & 2 else head.size
    free(text)
    text = exact_copy(data + 3, cut)
    part = parse_response(&piece, text, cut, &limits, method)
    free(text)
    if part > 0:
        expect(part == whole and same_head(&piece, &head), b"a piece that holds the head parses as the whole")
    elif part < 0:
        expect(whole < 0, b"what is refused early is refused in whole")
    elif whole > 0:
        expect(<uint32_t>whole > cut, b"a head that is here is not waited for")
    return 0


address = <size_t><void*>fuzz_one


def prepare():
    global engine
    import os

    from tests.fuzz.images import make_image

    image = make_image()
    engine = open_plane(image)
    os.close(image)
    if engine == NULL:
        raise MemoryError


prepare()
