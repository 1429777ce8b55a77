from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, ImageLocation

cdef uint32_t match_rules(Engine* engine, Exchange* exchange, const Head* head, const ImageLocation* location, const char* path,
                          uint32_t path_size) noexcept nogil
