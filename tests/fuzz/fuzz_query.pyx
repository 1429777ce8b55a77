"""Queries. Input: one byte (the size of the name that is looked for), that name, then the query.

Promises: parameters follow each other and lie inside, none is empty, and nothing but "&" is left out; a decoded text is no longer than what was
sent and plain ones stay as they are; a name is found exactly where its decoded form is the one that was looked for.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from fastlb.data_plane.query cimport decode_query, find_parameter, is_decoded, is_plain, next_parameter
from fastlb.data_plane.types cimport Head, NamedPart
from tests.fuzz.expect cimport exact_copy, expect


cdef bint check_part(const NamedPart* part, const char* name, uint32_t name_size) noexcept nogil:
    # Whether it is the one that is looked for.
    cdef:
        char* decoded = <char*>malloc(part.name_size + 1)
        uint32_t size = decode_query(part.name, part.name_size, decoded)
        bint same = size == name_size and memcmp(decoded, name, size) == 0
    expect(size <= part.name_size, b"a decoded text is no longer")
    expect(not is_plain(part.name, part.name_size) or (size == part.name_size and memcmp(decoded, part.name, size) == 0), b"a plain text stays")
    expect(is_decoded(part.name, part.name_size, name, name_size) == same, b"a name is compared as it is decoded")
    free(decoded)
    return same


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        Head head
        NamedPart part, found
        char* query
        const char* name = <const char*>data + 1
        uint32_t name_size, query_size, at = 0, before = 0
        bint seen
    if size == 0 or data[0] >= size or size > 0x10000:
        return 0
    name_size = data[0]
    query_size = <uint32_t>size - 1 - name_size
    query = exact_copy(data + 1 + name_size, query_size)
    memset(&head, 0, sizeof(head))
    head.data = query
    head.origin_size = query_size
    head.path_size = 0
    while next_parameter(query, query_size, &at, &part):
        expect(part.name >= query + before and at <= query_size, b"parameters follow each other")
        expect(part.name + part.name_size <= part.value and part.value + part.value_size == query + at, b"a parameter ends where the next begins")
        expect(at > before, b"no parameter is empty")
        while query + before < part.name:
            expect(query[before] == c"&", b"only separators are left out")
            before += 1
        before = at
        check_part(&part, name, name_size)
    while before < query_size:
        expect(query[before] == c"&", b"only separators are left over")
        before += 1
    if query_size != 0:                         # the first byte stands for the "?" of a target
        at = 0
        seen = False
        while next_parameter(query + 1, query_size - 1, &at, &part):
            seen = check_part(&part, name, name_size) or seen
        expect(find_parameter(&head, name, name_size, &found) == seen, b"a parameter is found if it is there")
    free(query)
    return 0


address = <size_t><void*>fuzz_one


def make_seeds():
    for name, query in ((b"beta", b"?a=1&beta=%31&&c"), (b"a b", b"a+b=1&a%20b&%61%2"), (b"", b"=1&&"), (b"q", b"?q=%zz%00+&q")):
        yield bytes([len(name)]) + name + query
