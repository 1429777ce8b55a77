"""Request heads, response heads and trailer sections. Input: one byte what to parse, two bytes where to cut, then the head.

Promises: what is accepted ends in an empty line and every offset lies inside; a piece of a head is refused only if the whole is;
a piece is accepted only if it holds the whole head; a path called raw is its own normal form.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from fastlb.data_plane.http1_head cimport parse_request, parse_response, parse_trailers
from fastlb.data_plane.target cimport normalise_path
from fastlb.data_plane.types cimport (FRAME_CHUNKED, FRAME_LENGTH, HEAD_PATH_IS_RAW, HEADER_CONTENT_LENGTH, HEADER_TRANSFER_ENCODING,
                                      MAX_TRAILERS, METHOD_GET, METHOD_HEAD, Head, HeadLimits)
from tests.fuzz.expect cimport exact_copy, expect


cdef int parse(Head* head, const char* text, uint32_t size, const HeadLimits* limits, uint8_t what) noexcept nogil:
    if what == 0:
        return parse_request(head, text, size, limits)
    if what == 1:
        return parse_response(head, text, size, limits, METHOD_GET)
    if what == 2:
        return parse_response(head, text, size, limits, METHOD_HEAD)
    return parse_trailers(head, text, size)


cdef void check_accepted(const Head* head, const char* text, uint32_t size, uint32_t max_fields, uint8_t what) noexcept nogil:
    cdef:
        uint32_t i, path_size
        char* path
    expect(head.size <= size and head.size >= 2, b"the size is inside the input")
    expect(memcmp(text + head.size - 2, b"\r\n", 2) == 0, b"a head ends in CRLF")
    expect(head.n_fields <= max_fields, b"no more fields than allowed")
    for i in range(head.n_fields):
        expect(head.fields[i].name_size > 0, b"a name is not empty")
        expect(head.fields[i].name + head.fields[i].name_size < head.fields[i].value + 1, b"a name ends before its value")
        expect(head.fields[i].value + head.fields[i].value_size + 2 <= head.fields[i].end, b"a value ends before its CRLF")
        expect(head.fields[i].end <= head.size, b"a field ends inside the head")
    expect(not ((head.seen >> HEADER_CONTENT_LENGTH) & 1 and (head.seen >> HEADER_TRANSFER_ENCODING) & 1) or what == 3,
           b"never both Content-Length and Transfer-Encoding")
    expect(head.framing != FRAME_CHUNKED or (head.seen >> HEADER_TRANSFER_ENCODING) & 1, b"chunked says so")
    expect(head.framing != FRAME_LENGTH or head.content_length > 0, b"a length is known")
    if what != 0:
        return
    expect(head.target + head.target_size <= head.size and head.target_size > 0, b"the target is inside")
    expect(head.origin + head.origin_size == head.target + head.target_size, b"origin form is the target's end")
    expect(head.path_size <= head.origin_size, b"the path is inside the target")
    expect(head.host + head.host_size <= head.size, b"the host is inside")
    if head.path_size and text[head.origin] == c"/":
        path = <char*>malloc(head.path_size)
        path_size = <uint32_t>normalise_path(text + head.origin, head.path_size, path)
        if head.flags & HEAD_PATH_IS_RAW:
            expect(path_size == head.path_size and memcmp(path, text + head.origin, path_size) == 0, b"a raw path is normal")
        free(path)


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        HeadLimits limits
        Head head
        uint8_t what
        uint32_t cut, n
        int whole, part
        char* text
    if size < 3 or size > 0x10000:
        return 0
    what = data[0] & 3
    limits.max_bytes = 256 if data[0] & 4 else 32768
    limits.max_target_bytes = 32 if data[0] & 4 else 8192
    limits.max_fields = 4 if data[0] & 4 else 100
    n = <uint32_t>size - 3
    cut = (data[1] | <uint32_t>data[2] << 8) % (n + 1)
    text = exact_copy(data + 3, n)
    whole = parse(&head, text, n, &limits, what)
    if whole > 0:
        expect(<uint32_t>whole == head.size, b"the result is the size")
        check_accepted(&head, text, n, <uint32_t>MAX_TRAILERS if what == 3 else limits.max_fields, what)
    free(text)
    text = exact_copy(data + 3, cut)
    part = parse(&head, text, cut, &limits, what)
    free(text)
    if what == 3:                               # is only ever given whole sections
        return 0
    if part > 0:
        expect(part == whole, b"a piece that holds the head parses as the whole")
    elif part < 0:
        expect(whole < 0, b"what is refused early is refused in whole")
    elif whole > 0:
        expect(<uint32_t>whole > cut, b"a head that is here is not waited for")
    return 0


address = <size_t><void*>fuzz_one
