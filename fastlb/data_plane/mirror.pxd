from fastlb.data_plane.types cimport Engine, Exchange, Head, Transport

cdef void choose_mirror(Engine* engine, Exchange* exchange, const Head* head) noexcept nogil
cdef void open_mirror(Engine* engine, Exchange* exchange) noexcept nogil
cdef const Transport* mirror_transport() noexcept nogil
