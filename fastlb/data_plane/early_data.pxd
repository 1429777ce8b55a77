from fastlb.data_plane.types cimport Connection, Engine, Http2Stream

cdef bint take_early_requests(Engine* engine, Connection* client, bint stands) noexcept nogil
cdef void follow_handshake(Connection* client) noexcept nogil
cdef bint may_begin_early(Engine* engine, Http2Stream* stream) noexcept nogil
