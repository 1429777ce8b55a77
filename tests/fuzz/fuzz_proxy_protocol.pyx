"""Headers of the PROXY protocol. Input: the bytes that a connection begins with.

Promises: what is asked for is above nothing and within the limit, and more bytes change no refusal; a header is read the same with and without
what follows it, and not before its last byte; what it says lies in it.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastlb.data_plane.proxy_protocol cimport PROXY_INTERNET, PROXY_PARSED, ProxyHeader, parse_proxy_header
from fastlb.data_plane.types cimport MAX_PROXY_HEADER_BYTES, PROXY_FACTS
from tests.fuzz.expect cimport exact_copy, expect


cdef int parse_exactly(const uint8_t* data, uint32_t size, ProxyHeader* header) noexcept nogil:
    # Of the header only what lies in the struct itself is valid afterwards.
    cdef:
        char* copy = exact_copy(data, size)
        int result = parse_proxy_header(copy, size, header)
    if result == PROXY_PARSED:
        check_header(<const uint8_t*>copy, size, header)
    free(copy)
    return result


cdef void check_header(const uint8_t* data, uint32_t size, const ProxyHeader* header) noexcept nogil:
    cdef uint32_t i
    expect(0 < header.size <= size and header.size <= <uint32_t>MAX_PROXY_HEADER_BYTES, b"a header lies in what has come, and within the limit")
    for i in range(PROXY_FACTS):
        expect(header.said[i].size == 0 or (header.said[i].at > data and header.said[i].at + header.said[i].size <= data + header.size),
               b"what it says lies in it")


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        ProxyHeader header, again
        uint32_t n = <uint32_t>size, cut
        int result, earlier
    if size > 0x4000 or size == 0:
        return 0
    result = parse_exactly(data, n, &header)
    if result > 0:
        expect(n + <uint32_t>result <= <uint32_t>MAX_PROXY_HEADER_BYTES, b"never more than the limit is asked for")
        return 0
    cut = n - n // 3
    earlier = parse_exactly(data, cut, &again)
    if earlier < 0:
        expect(earlier == result, b"more bytes change no refusal")
    if result != PROXY_PARSED:
        return 0
    expect(earlier == PROXY_PARSED or cut < header.size, b"a whole header is read")
    expect(parse_exactly(data, header.size, &again) == PROXY_PARSED and again.size == header.size and again.client == header.client
           and again.tls == header.tls and again.verify == header.verify, b"what follows changes nothing")
    if header.client == PROXY_INTERNET:
        expect(memcmp(again.source, header.source, 16) == 0 and memcmp(again.destination, header.destination, 16) == 0
               and again.source_port == header.source_port and again.destination_port == header.destination_port, b"nor addresses")
    expect(parse_exactly(data, header.size - 1, &again) == 1, b"its last byte is needed, and no more")
    return 0


address = <size_t><void*>fuzz_one


def make_seeds():
    """One of each kind."""
    from tests.support import proxy_header as build

    yield from (build.line(), build.line(("::1", 1), ("::2", 65535)), b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b\r\nGET /")
    yield from (build.binary(), build.binary(("::1", 1), ("::2", 2)), build.local(), build.raw(build.PROXY, build.UNIX_STREAM, bytes(216)))
    texts = (build.tlv(build.ALPN, b"h2"), build.tlv(build.AUTHORITY, b"a.example"), build.tlv(build.UNIQUE_ID, b"id"), build.tlv(build.NOTHING, b""))
    tls = build.tls(7, 1, build.tlv(build.TLS_VERSION, b"TLSv1.3"), build.tlv(build.TLS_NAME, b"a"), build.tlv(build.TLS_CIPHER, b"c"))
    yield build.binary(("192.0.2.7", 1), ("203.0.113.9", 2), *texts, tls, check=True)
