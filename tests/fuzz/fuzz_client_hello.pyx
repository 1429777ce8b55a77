"""ClientHellos. Input: the bytes that a client sends first.

Promises: what is asked for is above nothing and within the limit, and more bytes change no refusal; a message is read the same with and without
what follows it, and not before its last byte; a name is one of a host; protocols lie in the message and each has its size.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastlb.data_plane.client_hello cimport HELLO_PARSED, MAX_CLIENT_HELLO_BYTES, ClientHello, has_protocol, parse_client_hello
from tests.fuzz.expect cimport exact_copy, expect


cdef int parse_exactly(const uint8_t* data, uint32_t size, ClientHello* hello) noexcept nogil:
    # Of the message only what lies in `hello` itself is valid afterwards.
    cdef:
        char* copy = exact_copy(data, size)
        int result = parse_client_hello(copy, size, hello)
    if result == HELLO_PARSED:
        check_hello(copy, hello)
    free(copy)
    return result


cdef void check_hello(const char* data, const ClientHello* hello) noexcept nogil:
    cdef uint32_t i, at = 0
    expect(hello.size <= MAX_CLIENT_HELLO_BYTES, b"a message is within the limit")
    for i in range(hello.server_name_size):
        expect(c"a" <= hello.server_name[i] <= c"z" or c"0" <= hello.server_name[i] <= c"9" or hello.server_name[i] in (c"-", c"_", c"."),
               b"a name is one of a host")
    if hello.alpn == NULL:
        return
    expect((hello.alpn > <const uint8_t*>data and hello.alpn + hello.alpn_size <= <const uint8_t*>data + hello.size)
           or (hello.alpn > hello.joined and hello.alpn + hello.alpn_size <= hello.joined + MAX_CLIENT_HELLO_BYTES),
           b"protocols lie in the message")
    while at < hello.alpn_size:
        expect(hello.alpn[at] != 0, b"a protocol has a name")
        expect(has_protocol(hello.alpn, hello.alpn_size, <const char*>hello.alpn + at + 1, hello.alpn[at]), b"what is in the list is offered")
        at += 1 + hello.alpn[at]
    expect(at == hello.alpn_size, b"the last protocol ends with the list")


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        ClientHello hello, again
        uint32_t n = <uint32_t>size, cut
        int result, earlier
    if size > 0x10000:
        return 0
    result = parse_exactly(data, n, &hello)
    if result > 0:
        expect(n + <uint32_t>result <= MAX_CLIENT_HELLO_BYTES, b"never more than the limit is asked for")
        return 0
    cut = n - n // 3
    earlier = parse_exactly(data, cut, &again)
    if earlier < 0:
        expect(earlier == result, b"more bytes change no refusal")
    if result != HELLO_PARSED:
        return 0
    expect(earlier == HELLO_PARSED or cut < hello.size, b"a whole message is read")
    expect(parse_exactly(data, hello.size, &again) == HELLO_PARSED and again.size == hello.size
           and again.server_name_size == hello.server_name_size and memcmp(again.server_name, hello.server_name, hello.server_name_size) == 0,
           b"what follows changes nothing")
    expect(parse_exactly(data, hello.size - 1, &again) == 1, b"its last byte is needed, and no more")
    return 0


address = <size_t><void*>fuzz_one


def make_seeds():
    """Messages of Python's own client, and some that are cut into records or have few parts."""
    import ssl

    from tests.support.client_hello import alpn, message, openssl_hello, records, server_name, versions

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        yield openssl_hello(context, "a.example")
    small = message([server_name(b"a.example"), alpn(b"h2"), versions(0x0304)])
    yield from (records(small), records(small, [1] * 20), records(small, [60, 40]), records(message(None)), b"GET / HTTP/1.1")
