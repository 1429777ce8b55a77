"""Request heads, as read and as sent on. Input: one byte (1 = small limits), two bytes where to cut, then the head.

Promises: an accepted head ends in an empty line and every offset lies inside; a piece is refused only if the whole is, and
accepted only if it holds the whole head; a path called raw is its own normal form; what is sent to a backend reads there as it
was read here, framing above all.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memset

from fastlb.data_plane.http1_head cimport parse_request
from fastlb.data_plane.http1_serialise cimport write_request
from fastlb.data_plane.target cimport normalise_path
from fastlb.data_plane.types cimport (FIELD_DROPPED, FRAME_CHUNKED, HEAD_ABSOLUTE_TARGET, HEAD_PATH_IS_RAW, HEAD_UPGRADE, HEADER_HOST,
                                      HEADER_X_FORWARDED_FOR, HEADER_X_FORWARDED_HOST, HEADER_X_FORWARDED_PROTO, HEADER_X_REQUEST_ID,
                                      Backend, Connection, Engine, Exchange, Head, HeadLimits)
from tests.fuzz.expect cimport exact_copy, expect
from tests.fuzz.heads cimport check_clean, check_head, choose_limits, same_head
from tests.fuzz.plane cimport begin, open_plane

cdef Engine* trusting               # believes what the client says of others
cdef Engine* strict


cdef void check_request(const Head* head, const char* text) noexcept nogil:
    cdef:
        char* path
        int size
    expect(head.target + head.target_size < head.size and head.target_size > 0, b"the target is inside")
    check_clean(text + head.target, head.target_size, b"a target is clean")
    expect(memchr(text + head.target, c" ", head.target_size) == NULL, b"a target has no space")
    expect(head.origin + head.origin_size == head.target + head.target_size, b"origin form is the target's end")
    expect(head.path_size <= head.origin_size, b"the path is inside the target")
    expect(head.host + head.host_size <= head.size, b"the host is inside")
    expect(head.version == 0 or head.host != 0, b"HTTP/1.1 has a host")
    if head.path_size == 0 or text[head.origin] != c"/":
        return
    path = <char*>malloc(head.path_size)
    size = normalise_path(text + head.origin, head.path_size, path)
    if head.flags & HEAD_PATH_IS_RAW:
        expect(size == <int>head.path_size and memcmp(path, text + head.origin, head.path_size) == 0, b"a raw path is normal")
    free(path)


cdef uint32_t count_fields(const Head* head, uint32_t id) noexcept nogil:
    cdef uint32_t i, n = 0
    for i in range(head.n_fields):
        n += head.fields[i].id == id
    return n


cdef void check_sent(Engine* engine, const Head* head) noexcept nogil:
    cdef:
        Exchange exchange
        Connection client
        Backend backend
        Head again
        HeadLimits wide
        uint32_t size, dropped = 0, i
        char* text
    begin(engine, &exchange, &client)
    memset(&backend, 0, sizeof(backend))
    size = write_request(engine, &exchange, head, &backend)
    expect(size > 0, b"a head within the limits can be sent")
    text = exact_copy(<const uint8_t*>engine.write_buffer, size)
    wide.max_bytes = wide.max_target_bytes = 1 << 20
    wide.max_fields = 256
    expect(parse_request(&again, text, size, &wide) == <int>size, b"what is sent is one whole head")
    expect(again.version == 1 and not again.flags & HEAD_ABSOLUTE_TARGET, b"it is HTTP/1.1 in origin form")
    expect(again.method_size == head.method_size and memcmp(text, head.data, head.method_size) == 0, b"the method stays")
    expect(again.framing == head.framing and again.content_length == head.content_length, b"the framing stays")
    expect(again.target_size >= head.origin_size and memcmp(text + again.target + again.target_size - head.origin_size,
                                                            head.data + head.origin, head.origin_size) == 0, b"the target stays")
    if head.host != 0:
        expect(again.host_size == head.host_size and memcmp(text + again.host, head.data + head.host, head.host_size) == 0,
               b"the host stays")
    expect(count_fields(&again, HEADER_HOST) == 1, b"there is one host")
    for i in range(again.n_fields):
        dropped += again.fields[i].flags & FIELD_DROPPED != 0
    expect(dropped == <uint32_t>(head.framing == FRAME_CHUNKED) + (2 if head.flags & HEAD_UPGRADE else 0), b"only our hop-by-hop fields")
    expect((again.flags & HEAD_UPGRADE) == (head.flags & HEAD_UPGRADE), b"an upgrade stays one, and nothing becomes one")
    expect(count_fields(&again, HEADER_X_FORWARDED_FOR) == 1 and count_fields(&again, HEADER_X_FORWARDED_PROTO) == 1
           and count_fields(&again, HEADER_X_REQUEST_ID) == 1, b"each of our fields is there once")
    expect(count_fields(&again, HEADER_X_FORWARDED_HOST) <= 1 and (head.host_size == 0 or count_fields(&again, HEADER_X_FORWARDED_HOST) == 1),
           b"a host that is known is forwarded once")
    free(text)


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        HeadLimits limits
        Head head, piece
        uint32_t cut, n
        int whole, part
        char* text
    if size < 3 or size > 0x10000:
        return 0
    limits = choose_limits(data[0] & 1)
    n = <uint32_t>size - 3
    cut = (data[1] | <uint32_t>data[2] << 8) % (n + 1)
    text = exact_copy(data + 3, n)
    whole = parse_request(&head, text, n, &limits)
    if whole > 0:
        expect(<uint32_t>whole == head.size, b"the result is the size")
        check_head(&head, text, n, limits.max_fields)
        check_request(&head, text)
        check_sent(strict, &head)
        check_sent(trusting, &head)
        cut = cut if data[0] & 2 else head.size
    free(text)
    text = exact_copy(data + 3, cut)
    part = parse_request(&piece, text, cut, &limits)
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
    global trusting, strict
    import os

    from tests.fuzz.images import make_image

    images = [make_image(), make_image(networks=["192.0.2.0/24"])]
    strict, trusting = open_plane(images[0]), open_plane(images[1])
    if strict == NULL or trusting == NULL:
        raise MemoryError
    for image in images:
        os.close(image)


prepare()
