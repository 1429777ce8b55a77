"""Queries: parameters as the client sent them, and their decoded text (application/x-www-form-urlencoded). Reads the head only.

A name or value is compared decoded, so that no spelling of it (`%62eta=1`) passes a rule. An escape that is none stays as it is.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.system cimport memchr
from fastlb.data_plane.target cimport hex_value
from fastlb.data_plane.types cimport Head, NamedPart


cdef inline const char* query_of(const Head* head, uint32_t* size) noexcept nogil:
    # What stands behind the "?" of the target; nothing where there is none.
    cdef uint32_t start = head.path_size
    if start < head.origin_size:
        start += 1
    size[0] = head.origin_size - start
    return head.data + head.origin + start


cdef inline bint next_parameter(const char* query, uint32_t size, uint32_t* at, NamedPart* part) noexcept nogil:
    # The parameter that begins at or behind `at`, which then stands behind it. Without "=" the value is empty. False: there is none.
    cdef:
        uint32_t start = at[0], end
        const char* found
    while start < size and query[start] == c"&":
        start += 1
    if start >= size:
        return False
    found = <const char*>memchr(query + start, c"&", size - start)
    end = size if found == NULL else <uint32_t>(found - query)
    found = <const char*>memchr(query + start, c"=", end - start)
    part.name = query + start
    part.name_size = end - start if found == NULL else <uint32_t>(found - query) - start
    part.value = query + end if found == NULL else found + 1
    part.value_size = <uint32_t>(query + end - part.value)
    at[0] = end
    return True


cdef inline uint32_t decode_at(const char* raw, uint32_t size, uint32_t at, char* byte) noexcept nogil:
    # The byte that is written at `at`; returns where the next one stands.
    cdef int high, low
    byte[0] = raw[at]
    if raw[at] == c"+":
        byte[0] = c" "
    elif raw[at] == c"%" and at + 2 < size:
        high = hex_value(raw[at + 1])
        low = hex_value(raw[at + 2])
        if high >= 0 and low >= 0:
            byte[0] = <char>(high << 4 | low)
            return at + 3
    return at + 1


cdef inline bint is_plain(const char* raw, uint32_t size) noexcept nogil:
    # Whether the text stands for itself.
    return size == 0 or (memchr(raw, c"%", size) == NULL and memchr(raw, c"+", size) == NULL)


cdef inline uint32_t decode_query(const char* raw, uint32_t size, char* text) noexcept nogil:
    # Decodes a name or a value into `text`, which has room for `size`. Returns its size.
    cdef uint32_t at = 0, n = 0
    while at < size:
        at = decode_at(raw, size, at, &text[n])
        n += 1
    return n


cdef inline bint is_decoded(const char* raw, uint32_t raw_size, const char* text, uint32_t size) noexcept nogil:
    # Whether a name as received is `text`.
    cdef:
        uint32_t at = 0, i
        char byte = 0
    for i in range(size):
        if at >= raw_size:
            return False
        at = decode_at(raw, raw_size, at, &byte)
        if byte != text[i]:
            return False
    return at == raw_size


cdef inline bint find_parameter(const Head* head, const char* name, uint32_t size, NamedPart* part) noexcept nogil:
    # The first parameter of this name. False: there is none.
    cdef:
        uint32_t query_size = 0, at = 0
        const char* query = query_of(head, &query_size)
    while next_parameter(query, query_size, &at, part):
        if is_decoded(part.name, part.name_size, name, size):
            return True
    return False
