from libc.stdint cimport uint32_t

from fastlb.data_plane.types cimport Engine, Exchange, Head, Regex, Snapshot

ctypedef struct RegexSet:
    # The compiled patterns of an image, in its order, on their way into a snapshot.
    Regex** regexes                 # owned; NULL: none are compiled
    uint32_t n_regexes

# The request path.
cdef uint32_t find_route(Engine* engine, Exchange* exchange, const Head* head, const char* path, uint32_t path_size) noexcept nogil

# Where a snapshot is written, checked and loaded.
cdef uint32_t hash_host(const char* name, uint32_t size) noexcept nogil
cdef uint32_t hash_location(const char* path, uint32_t size, uint32_t kind) noexcept nogil
cdef bint check_route_table(const char* data, size_t size, uint32_t n_routes) noexcept nogil
cdef int compile_regexes(const char* image, RegexSet* compiled) noexcept nogil
cdef void free_regexes(RegexSet* compiled) noexcept nogil
cdef int load_regexes(Engine* engine, Snapshot* snapshot, RegexSet* compiled) noexcept nogil
cdef void drop_regexes(Snapshot* snapshot) noexcept nogil
