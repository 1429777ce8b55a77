"""Connection ids of QUIC, as far as every version has them (RFC 8999), and the backends that are named in them.

A backend gives its clients ids of which a part is its own name (draft-ietf-quic-load-balancers, its plaintext algorithm, or any ids with a name at a
fixed place). A client whose address has changed sends such an id from the new one, so whoever gets that datagram knows where it belongs. What
is read has come from anywhere: a name leads to a backend of the listener's pool, or to nothing.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

from fastlb.data_plane.name_table cimport find_name
from fastlb.data_plane.system cimport iovec
from fastlb.data_plane.types cimport NO_BACKEND, Engine, ImageName, ImageRoute, Listener, Pool

cdef enum:
    LONG_FORM = 0x80                # of the first byte
    LONG_HEAD_BYTES = 6             # before the id: this one, the version, the size of the id


cdef inline const char* find_server_id(const char* data, size_t size, uint32_t offset, uint32_t n_bytes, bint any_form) noexcept nogil:
    # Where the destination's id in this datagram has its name: `n_bytes`, `offset` bytes behind the id's beginning. NULL: it has no room for one.
    # A short header does not say how long its id is. The id of a long one (only with `any_form`) may still be the client's own invention.
    cdef const uint8_t* head = <const uint8_t*>data
    if size == 0:
        return NULL
    if not head[0] & LONG_FORM:
        return data + 1 + offset if 1 + <size_t>offset + n_bytes <= size else NULL
    if not any_form or size < LONG_HEAD_BYTES or head[5] > size - LONG_HEAD_BYTES or offset + n_bytes > head[5]:
        return NULL
    return data + LONG_HEAD_BYTES + offset


cdef inline const Pool* session_pool(const Engine* engine, const Listener* listener) noexcept nogil:
    # Where sessions of this listener begin, which has a route for them.
    cdef const ImageRoute* routes = <const ImageRoute*>(engine.snapshot.image + engine.snapshot.header.routes.offset)
    return &engine.snapshot.pools[routes[listener.session_route].pool]


cdef inline int32_t find_named(const Engine* engine, const Listener* listener, const iovec* part, bint any_form) noexcept nogil:
    # The backend that the first of these datagrams names, in the pool of the listener's sessions; NO_BACKEND.
    cdef:
        uint32_t n_bytes = listener.settings.server_id_bytes
        const char* image = engine.snapshot.image
        const char* found = find_server_id(<const char*>part.iov_base, part.iov_len, listener.settings.server_id_offset, n_bytes, any_form)
    if found == NULL:
        return NO_BACKEND
    return <int32_t>find_name(image, <const ImageName*>(image + engine.snapshot.header.names.offset) + listener.server_ids.offset,
                              listener.server_ids.count, found, n_bytes)      # NO_INDEX is NO_BACKEND
