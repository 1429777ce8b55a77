from fastlb.data_plane.types cimport Codec, Connection, Engine, Exchange

cdef enum:
    FOLD_MS = 1000                  # of silence: sessions that talk do so more often, and an idle one holds its exchange for no longer

cdef bint fold_tunnel(Engine* engine, Exchange* exchange) noexcept nogil
cdef Exchange* unfold_tunnel(Engine* engine, Connection* connection) noexcept nogil
cdef const Codec* folded_codec() noexcept nogil
