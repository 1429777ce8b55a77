"""Request targets: the normalised path that routes match. The raw bytes are forwarded; this is the other of the two."""
from libc.stdint cimport uint32_t

from fastlb.data_plane.system cimport unlikely
from fastlb.data_plane.types cimport HEAD_PATH_IS_RAW, Head


cdef inline int hex_value(char digit) noexcept nogil:
    if c"0" <= digit <= c"9":
        return digit - c"0"
    digit |= 0x20
    if c"a" <= digit <= c"f":
        return digit - c"a" + 10
    return -1


cdef inline int normalise_path(const char* raw, uint32_t size, char* path) noexcept nogil:
    # Percent-decodes once, resolves "." and ".." segments, merges slashes. `raw` begins with "/"; `path` has room for `size`.
    # The size of the result, or -1: a bad escape, %00, or climbing above the root (nginx answers 400 as well).
    # "/a%2Fb" becomes "/a/b" and "/a/%2e%2e" becomes "/", so that no spelling of a path passes a route meant for another.
    cdef:
        uint32_t at = 0, out = 0, segment
        int high, low
        char byte
    while True:
        # `path[:out]` is normal and ends before a slash; here begins the next segment, at any number of slashes.
        path[out] = c"/"
        out += 1
        segment = out
        while at < size:
            byte = raw[at]
            if byte == c"%":
                if at + 2 >= size:
                    return -1
                high = hex_value(raw[at + 1])
                low = hex_value(raw[at + 2])
                if high < 0 or low < 0 or (high == 0 and low == 0):
                    return -1
                byte = <char>(high << 4 | low)
                at += 2
            at += 1
            if byte != c"/":
                path[out] = byte
                out += 1
            elif out > segment:
                break
        else:
            byte = 0                            # the end of the path, not a slash
        if out - segment == 1 and path[segment] == c".":
            out = segment - 1
        elif out - segment == 2 and path[segment] == c"." and path[segment + 1] == c".":
            if segment == 1:
                return -1
            out = segment - 1                   # at the slash before "..": drop the segment before it too
            while path[out - 1] != c"/":
                out -= 1
            out -= 1
        if byte != c"/":
            break
    # "/a/" keeps its slash (an empty last segment), "/a/." and "/a/b/.." end in one as well (RFC 3986 section 5.2.4).
    if out == segment - 1:
        path[out] = c"/"
        out += 1
    elif out < segment:
        path[out] = c"/"
        out += 1
    return <int>out


cdef inline const char* request_path(const Head* head, char* scratch, int* size) noexcept nogil:
    # The normalised path of a request: its own bytes, or `scratch`. NULL: it cannot be decoded, or leaves the root.
    cdef const char* path = head.data + head.origin
    size[0] = <int>head.path_size
    if unlikely(head.path_size == 0 or path[0] == c"*"):
        size[0] = 1                             # absolute-form without a path, and "*" of OPTIONS: what serves "/" answers for the whole
        return b"/"
    if unlikely(not head.flags & HEAD_PATH_IS_RAW):
        size[0] = normalise_path(path, head.path_size, scratch)
        return NULL if size[0] < 0 else scratch
    return path


cdef inline bint has_dot_segment(const char* path, uint32_t size) noexcept nogil:
    # Whether a segment of a raw path is "." or "..", spelled plainly or not: a backend may resolve it, and so leave what it stands behind.
    cdef uint32_t at = 0, dots = 0
    cdef bint other = False
    while True:
        if at == size or path[at] == c"/":
            if not other and 0 < dots <= 2:
                return True
            if at == size:
                return False
            dots = 0
            other = False
        elif path[at] == c".":
            dots += 1
        elif path[at] == c"%" and at + 2 < size and path[at + 1] == c"2" and path[at + 2] | 0x20 == c"e":
            dots += 1
            at += 2
        else:
            other = True
        at += 1
