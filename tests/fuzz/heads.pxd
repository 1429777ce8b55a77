"""What the fuzz targets for request and response heads share: the promises that hold for any accepted head."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from fastlb.data_plane.types cimport (FRAME_CHUNKED, FRAME_LENGTH, HEADER_CONTENT_LENGTH, HEADER_TRANSFER_ENCODING, Head, HeaderField,
                                      HeadLimits)
from tests.fuzz.expect cimport expect


cdef inline HeadLimits choose_limits(bint small) noexcept nogil:
    cdef HeadLimits limits
    limits.max_bytes = 256 if small else 32768
    limits.max_target_bytes = 32 if small else 8192
    limits.max_fields = 4 if small else 100
    return limits


cdef inline void check_clean(const char* text, uint32_t size, const char* promise) noexcept nogil:
    # No control character but HTAB.
    cdef uint32_t i
    for i in range(size):
        expect(text[i] == c"\t" or (<uint8_t>text[i] >= 0x20 and text[i] != 0x7F), promise)


cdef inline void check_head(const Head* head, const char* text, uint32_t size, uint32_t max_fields) noexcept nogil:
    cdef:
        const HeaderField* field
        uint32_t i, at = head.fields_start
    expect(head.size <= size and head.size >= 4, b"the size is inside the input")
    expect(memcmp(text + head.size - 2, b"\r\n", 2) == 0, b"a head ends in CRLF")
    expect(head.n_fields <= max_fields, b"no more fields than allowed")
    for i in range(head.n_fields):
        field = &head.fields[i]
        expect(field.name == at, b"a field begins where the one before it ends")
        expect(field.name_size > 0, b"a name is not empty")
        expect(text[field.name + field.name_size] == c":", b"a name ends at a colon")
        expect(field.name + field.name_size < field.value, b"a value stands behind its name")
        expect(field.value + field.value_size + 2 <= field.end, b"a value ends before its CRLF")
        expect(memcmp(text + field.end - 2, b"\r\n", 2) == 0, b"a field ends in CRLF")
        check_clean(text + field.name, field.name_size, b"a name is clean")
        check_clean(text + field.value, field.value_size, b"a value is clean")
        at = field.end
    expect(at + 2 == head.size, b"the empty line follows the last field")
    expect(not (head.seen >> HEADER_CONTENT_LENGTH) & (head.seen >> HEADER_TRANSFER_ENCODING) & 1, b"never a length and a coding")
    expect(head.framing != FRAME_CHUNKED or (head.seen >> HEADER_TRANSFER_ENCODING) & 1, b"chunked says so")
    expect(head.framing != FRAME_LENGTH or head.content_length > 0, b"a length is known")


cdef inline bint same_head(const Head* a, const Head* b) noexcept nogil:
    # All but `data`, which may be two copies of the same bytes.
    return (a.size == b.size and a.n_fields == b.n_fields and a.seen == b.seen and a.content_length == b.content_length
            and a.flags == b.flags and a.status == b.status and a.version == b.version and a.method == b.method
            and a.framing == b.framing and a.method_size == b.method_size and a.target == b.target and a.target_size == b.target_size
            and a.origin == b.origin and a.origin_size == b.origin_size and a.path_size == b.path_size and a.host == b.host
            and a.host_size == b.host_size and a.reason == b.reason and a.reason_size == b.reason_size
            and a.fields_start == b.fields_start and memcmp(a.fields, b.fields, a.n_fields * sizeof(HeaderField)) == 0)
