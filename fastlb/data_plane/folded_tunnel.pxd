from fastlb.data_plane.types cimport Codec, Connection, Engine, Exchange

cdef enum:
    # Of silence. To fold and unfold costs 0.2 us; what thousands that come at once hold until then stays with the process.
    FOLD_MS = 100

cdef bint fold_tunnel(Engine* engine, Exchange* exchange) noexcept nogil
cdef Exchange* unfold_tunnel(Engine* engine, Connection* connection) noexcept nogil
cdef const Codec* folded_codec() noexcept nogil
