from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, HeadLimits

cdef enum:
    HEAD_INCOMPLETE = 0
    # Positive: the head's size in bytes. Negative: minus a FAILURE_* of failure.pxd.

cdef int parse_request(Head* head, const char* data, uint32_t size, const HeadLimits* limits) noexcept nogil
cdef int parse_response(Head* head, const char* data, uint32_t size, const HeadLimits* limits, uint32_t request_method) noexcept nogil
cdef int parse_trailers(Head* head, const char* data, uint32_t size) noexcept nogil
cdef bint same_name(const char* name, const char* lower, uint32_t size) noexcept nogil
cdef bint may_be_trailer(const Head* head, uint32_t index) noexcept nogil
cdef Head* kept_request(Engine* engine, Exchange* exchange) noexcept nogil
cdef uint32_t header_id(const char* name, uint32_t size) noexcept nogil
