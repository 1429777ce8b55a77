"""Names of servers, as clients of TLS and QUIC give them, and what each leads to: certificates of a listener that ends TLS, pools of one that passes
it on, backends of one for UDP.

A table is a range of names in ascending order, so that a search needs nothing beside them: a name costs a comparison for each doubling of how
many there are, which is nothing beside the handshake that asks. An image's table is searched where it lies. No state.
"""
from libc.stdint cimport uint32_t

from fastlb.data_plane.image cimport range_fits, text_fits
from fastlb.data_plane.system cimport memchr, memcmp
from fastlb.data_plane.types cimport MAX_TLS_NAME_BYTES, NO_INDEX, ImageHeader, ImageName, ImageSection


cdef int compare_names(const char* a, uint32_t a_size, const char* b, uint32_t b_size) noexcept nogil:
    # Below, at or above 0: by bytes, a shorter one before what it begins.
    cdef int order = memcmp(a, b, a_size if a_size < b_size else b_size)
    if order != 0:
        return order
    return (a_size > b_size) - (a_size < b_size)


cdef uint32_t find_name(const char* texts, const ImageName* names, uint32_t n_names, const char* wanted, uint32_t size) noexcept nogil:
    # What this very name leads to; NO_INDEX.
    cdef:
        uint32_t low = 0, high = n_names, middle
        int order
    while low < high:
        middle = low + (high - low) // 2
        order = compare_names(wanted, size, texts + names[middle].name.offset, names[middle].name.size)
        if order == 0:
            return names[middle].target
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return NO_INDEX


cdef uint32_t find_host(const char* texts, const ImageName* names, uint32_t n_names, const char* host, uint32_t size) noexcept nogil:
    # What a host leads to: its own name, else the wildcard in place of its first label; NO_INDEX. In any case, a dot at its end or not.
    # Offsets of names count from `texts`.
    cdef:
        char lower[MAX_TLS_NAME_BYTES + 1]
        const char* dot
        uint32_t i, found
    if size and host[size - 1] == c".":
        size -= 1
    if size == 0 or size > MAX_TLS_NAME_BYTES:
        return NO_INDEX
    for i in range(size):
        lower[i] = host[i] | 0x20 if c"A" <= host[i] <= c"Z" else host[i]
    found = find_name(texts, names, n_names, lower, size)
    if found != <uint32_t>NO_INDEX:
        return found
    dot = <const char*>memchr(lower, c".", size)
    if dot == NULL or dot == lower:
        return NO_INDEX
    lower[dot - lower - 1] = c"*"               # the last byte of the label makes room for it
    return find_name(texts, names, n_names, dot - 1, size - <uint32_t>(dot - lower) + 1)


cdef bint check_names(const char* image, const ImageHeader* header, const ImageSection* names, uint32_t n_targets) noexcept nogil:
    # Ascending names inside the image's, each leading to one of `n_targets`.
    cdef:
        const ImageName* name
        const ImageName* before
        uint32_t i
    if not range_fits(names, &header.names):
        return False
    name = <const ImageName*>(image + header.names.offset) + names.offset
    for i in range(names.count):
        before = name - 1
        if not text_fits(header.size, &name.name) or name.name.size - 1 >= <uint32_t>MAX_TLS_NAME_BYTES or name.target >= n_targets:
            return False
        if i > 0 and compare_names(image + before.name.offset, before.name.size, image + name.name.offset, name.name.size) >= 0:
            return False
        name += 1
    return True
