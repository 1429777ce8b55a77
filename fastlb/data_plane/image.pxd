"""What an image says of itself is checked with these, once, before anything in it is believed."""
from libc.stdint cimport uint64_t

from fastlb.data_plane.types cimport ImageSection, ImageText


cdef inline bint fits(size_t size, const ImageSection* section, size_t record) noexcept nogil:
    return section.offset <= size and <uint64_t>section.count * record <= size - section.offset and section.offset % 8 == 0


cdef inline bint text_fits(size_t size, const ImageText* text) noexcept nogil:
    return text.offset <= size and text.size <= size - text.offset


cdef inline bint range_fits(const ImageSection* inner, const ImageSection* outer) noexcept nogil:
    # `inner` counts records inside the section `outer`: its offset is a record index.
    return inner.offset <= outer.count and inner.count <= outer.count - inner.offset
