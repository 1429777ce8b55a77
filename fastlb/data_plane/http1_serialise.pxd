from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Backend, Connection, Engine, Exchange, Head

cdef uint32_t write_request(Engine* engine, Exchange* exchange, const Head* head, const Backend* backend) noexcept nogil
cdef uint32_t write_response(Engine* engine, Exchange* exchange, const Head* head, bint chunked, bint close) noexcept nogil
cdef uint32_t write_informational(Engine* engine, const Head* head) noexcept nogil
cdef uint32_t write_local(Engine* engine, Exchange* exchange, uint32_t failure, bint close) noexcept nogil
cdef uint32_t write_grpc(Engine* engine, uint32_t failure) noexcept nogil
cdef uint32_t write_answer(Engine* engine, Exchange* exchange, const Head* request, bint close, uint32_t* body_size) noexcept nogil
cdef uint32_t local_body_bytes(uint32_t failure) noexcept nogil
