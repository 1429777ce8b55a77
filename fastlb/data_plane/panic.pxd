from fastlb.data_plane.types cimport Engine, Pool

cdef bint look_for_panic(Engine* engine, Pool* pool) noexcept nogil
