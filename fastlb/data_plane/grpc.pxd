"""gRPC, as far as answers of our own have to know it: which request is one, and which gRPC status stands for a failure.

A gRPC client reads no body of an error and no status but its own. So what fails here is told by a head alone that stands for trailers
("Trailers-Only" of the specification, PROTOCOL-HTTP2.md): HTTP status 200, grpc-status and grpc-message. Requests are looked at where they
fail, and only there.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.failure cimport (FAILURE_BODY_TOO_LARGE, FAILURE_EXCHANGE_TIMEOUT, FAILURE_HEAD_TOO_LARGE, FAILURE_TARGET_TOO_LONG,
                                        failures)
from fastlb.data_plane.http1_head cimport same_name
from fastlb.data_plane.types cimport Head, HeaderField

cdef enum:                          # https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
    GRPC_UNKNOWN = 2
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_PERMISSION_DENIED = 7
    GRPC_RESOURCE_EXHAUSTED = 8
    GRPC_UNIMPLEMENTED = 12
    GRPC_INTERNAL = 13
    GRPC_UNAVAILABLE = 14
    GRPC_UNAUTHENTICATED = 16


cdef inline bint is_grpc_type(const char* value, uint32_t size) noexcept nogil:
    # Whether a Content-Type says application/grpc, with a message format behind it or not. application/grpc-web is HTTP with bodies.
    return size >= 16 and same_name(value, b"application/grpc", 16) and (size == 16 or value[16] == c"+" or value[16] == c";")


cdef inline bint is_grpc(const Head* head) noexcept nogil:
    # Whether this request is gRPC.
    cdef:
        const HeaderField* field = &head.fields[0]
        uint32_t _i
    for _i in range(head.n_fields):
        if field.name_size == 12 and same_name(head.data + field.name, b"content-type", 12):
            return is_grpc_type(head.data + field.value, field.value_size)
        field += 1
    return False


cdef inline uint32_t grpc_status_of(uint32_t failure) noexcept nogil:
    # What clients would make of the HTTP status by themselves (doc/http-grpc-status-mapping.md), but where gRPC has a word of its own: too much
    # is RESOURCE_EXHAUSTED, and what took too long as a whole, or did not come, DEADLINE_EXCEEDED. UNAVAILABLE asks the client to try again,
    # which a message that is too large or a call that has used up its time would do in vain. Limits and queues that are full stay UNAVAILABLE:
    # they are so for a moment, and nothing has reached a backend.
    cdef uint32_t status = failures[failure].status
    if failure == FAILURE_BODY_TOO_LARGE or failure == FAILURE_HEAD_TOO_LARGE or failure == FAILURE_TARGET_TOO_LONG:
        return GRPC_RESOURCE_EXHAUSTED
    if failure == FAILURE_EXCHANGE_TIMEOUT or status == 408:
        return GRPC_DEADLINE_EXCEEDED
    if status == 400:
        return GRPC_INTERNAL
    if status == 401:
        return GRPC_UNAUTHENTICATED
    if status == 403:
        return GRPC_PERMISSION_DENIED
    if status == 404:
        return GRPC_UNIMPLEMENTED
    if status == 429 or 502 <= status <= 504:
        return GRPC_UNAVAILABLE
    return GRPC_UNKNOWN
