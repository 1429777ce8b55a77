from libc.stdint cimport int64_t, uint32_t

from fastlb.data_plane.nghttp2 cimport nghttp2_nv
from fastlb.data_plane.types cimport Buffer, BufferPool, Engine, Head

cdef enum:
    MAX_SENT_FIELDS = 400           # what a backend may send (MAX_HEADERS), what edits may add (MAX_HEADER_OPERATIONS) and a few of ours
    REQUEST_ROOM = 256              # what a request head of HTTP/1.1 has more than its header list in a buffer
    BODY_UNKNOWN = -1

cdef struct AnswerTo:               # what an answer means depends on
    bint is_head
    bint is_connect                 # a WebSocket: 2xx says that its tunnel stands
    const char* key                 # is_connect: borrowed, its Sec-WebSocket-Key; NULL = none
    uint32_t key_size

cdef bint add_field(BufferPool* buffers, Buffer** fields, const char* name, uint32_t name_size, const char* value,
                    uint32_t value_size) noexcept nogil
cdef uint32_t make_request(Engine* engine, const Buffer* fields, int64_t body_bytes, Buffer** head, bint* is_connect) noexcept nogil
cdef bint asks_head(const Buffer* fields) noexcept nogil
cdef bint asks_grpc(const Buffer* fields) noexcept nogil
cdef bint asks_safely(const Buffer* fields) noexcept nogil
cdef bint has_field(const Buffer* fields, const char* name, uint32_t size) noexcept nogil
cdef bint make_trailers(BufferPool* buffers, const Buffer* fields, Buffer** trailers) noexcept nogil
cdef uint32_t list_fields(const char* text, uint32_t size, nghttp2_nv* fields) noexcept nogil
cdef bint make_response(BufferPool* buffers, const Buffer* fields, const AnswerTo* request, bint ended, Buffer** heads, uint32_t* status,
                        int64_t* body_bytes) noexcept nogil
cdef uint32_t list_request(const char* text, uint32_t size, bint is_tls, bint wants_trailers, bint is_connect, nghttp2_nv* fields) noexcept nogil
cdef const char* find_websocket_key(const Head* head, uint32_t* size) noexcept nogil
cdef bint is_websocket(const Head* head) noexcept nogil
cdef bint accepts_trailers(const Head* head) noexcept nogil
