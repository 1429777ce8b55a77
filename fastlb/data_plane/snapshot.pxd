from libc.stdint cimport int64_t, uint32_t

from fastlb.data_plane.route_table cimport RegexSet
from fastlb.data_plane.tls cimport TlsSet
from fastlb.data_plane.types cimport Engine, ImageRoute, ImageText, Snapshot

cdef enum:
    IMAGE_MAGIC = 0x00626C7473616600      # "fastlb" between zero bytes
    IMAGE_LAYOUT = 8

cdef int check_image(const char* image, size_t size) noexcept nogil
cdef const char* map_image(int image_fd, size_t* size, int* error) noexcept nogil
cdef Snapshot* load_snapshot(Engine* engine, const char* image, size_t size, RegexSet* compiled, TlsSet* tls, int* error) noexcept nogil
cdef void drop_snapshot(Engine* engine, Snapshot* snapshot) noexcept nogil


cdef inline const char* image_text(const Snapshot* snapshot, const ImageText* text) noexcept nogil:
    return snapshot.image + text.offset
