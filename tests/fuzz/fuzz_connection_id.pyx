"""Names of backends in connection ids of QUIC. Input: the offset of the name, its size, whether long headers count; then a datagram.

Promises: a name lies in the datagram as a whole, behind the first byte, in a long header in its id; a longer datagram of the short form has it at
the same place.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastlb.data_plane.connection_id cimport find_server_id
from tests.fuzz.expect cimport expect


cdef int fuzz_one(const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        uint32_t offset, n_bytes
        bint any_form, is_long
        char* datagram
        const char* found
        const char* shorter
    if size < 3 or size > 0x10000:
        return 0
    offset, n_bytes, any_form = data[0] % 20, 1 + data[1] % 16, data[2] & 1
    size -= 3
    datagram = <char*>malloc(size)              # ends where the sanitizer looks
    memcpy(datagram, data + 3, size)
    found = find_server_id(datagram, size, offset, n_bytes, any_form)
    is_long = size > 0 and data[3] & 0x80
    if found != NULL:
        expect(found > datagram and found + n_bytes <= datagram + size, b"a name lies in the datagram")
        expect(any_form or not is_long, b"long headers count only where they are to")
        if is_long:
            expect(found == datagram + 6 + offset and offset + n_bytes <= data[8], b"a name lies in the id of a long header")
        else:
            expect(found == datagram + 1 + offset, b"the id of a short header follows the first byte")
    if size > 0:
        shorter = find_server_id(datagram, size - 1, offset, n_bytes, any_form)
        expect(shorter == NULL or shorter == found, b"what follows changes nothing")
    free(datagram)
    return 0


address = <size_t><void*>fuzz_one
