"""What an image says of TCP and UDP sessions: where they go, and by what a client's first message chooses. Checked once, when the image is read."""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.image cimport text_fits
from fastlb.data_plane.name_table cimport check_names
from fastlb.data_plane.types cimport (MAX_DATAGRAM_SESSIONS, MAX_SERVER_ID_BYTES, MAX_SERVER_ID_OFFSET, MAX_TLS_LIST_BYTES, NO_INDEX, ROUTE_PLAIN, STICKY_SOURCE, ImageHeader, ImageListener, ImagePool, ImageRoute,
                                      ImageSniChoice, ImageSticky)


cdef bint check_session_route(const char* image, const ImageHeader* header, uint32_t index) noexcept nogil:
    # Where sessions may go: a route that does nothing but lead to its pool, and a pool that wants nothing of a head. Routes, pools and
    # stickies are known to be sound.
    cdef:
        const ImageRoute* route = <const ImageRoute*>(image + header.routes.offset) + index
        const ImagePool* pool
    if index >= header.routes.count or route.features != <uint32_t>ROUTE_PLAIN:
        return False
    pool = <const ImagePool*>(image + header.pools.offset) + route.pool
    return pool.hash_key.count == 0 and (pool.sticky == <uint32_t>NO_INDEX or (
        <const ImageSticky*>(image + header.stickies.offset) + pool.sticky).kind == STICKY_SOURCE)


cdef bint check_protocols(const char* list, uint32_t size) noexcept nogil:
    # A list of protocols as ALPN has it: each behind a byte with its size.
    cdef uint32_t at = 0
    while at < size:
        if list[at] == 0 or <uint8_t>list[at] >= size - at:
            return False
        at += 1 + <uint8_t>list[at]
    return True


cdef bint check_choices(const char* image, const ImageHeader* header) noexcept nogil:
    # Of an image whose sections, routes and pools are sound. Every run of choices ends.
    cdef:
        const ImageSniChoice* choice = <const ImageSniChoice*>(image + header.sni_choices.offset)
        uint32_t i
    for i in range(header.sni_choices.count):
        if not text_fits(header.size, &choice.alpn) or choice.alpn.size > MAX_TLS_LIST_BYTES \
                or not check_protocols(image + choice.alpn.offset, choice.alpn.size) or not check_session_route(image, header, choice.route):
            return False
        if i + 1 == header.sni_choices.count and not choice.is_last:
            return False
        choice += 1
    return True


cdef bint check_sni(const char* image, const ImageHeader* header, const ImageListener* listener) noexcept nogil:
    # What a listener that passes TLS on looks at; the image's choices are sound.
    return check_names(image, header, &listener.sni_names, header.sni_choices.count) \
        and (listener.sni_others == <uint32_t>NO_INDEX or listener.sni_others < header.sni_choices.count)


cdef bint check_datagrams(const char* image, const ImageHeader* header, const ImageListener* listener) noexcept nogil:
    # What a listener of UDP sessions looks at.
    cdef:
        const ImageRoute* route
        const ImagePool* pool
    if listener.settings.max_sessions > <uint32_t>MAX_DATAGRAM_SESSIONS or listener.settings.silence_ms == 0 \
            or listener.tls != <uint32_t>NO_INDEX or listener.chooses_by_name or listener.settings.proxy_timeout_ms != 0 \
            or not check_session_route(image, header, listener.session_route):
        return False
    route = <const ImageRoute*>(image + header.routes.offset) + listener.session_route
    pool = <const ImagePool*>(image + header.pools.offset) + route.pool
    return pool.tls == <uint32_t>NO_INDEX and pool.proxy_header == 0 and listener.settings.server_id_bytes <= <uint32_t>MAX_SERVER_ID_BYTES \
        and listener.settings.server_id_offset <= <uint32_t>MAX_SERVER_ID_OFFSET \
        and check_names(image, header, &listener.server_ids, pool.backends.count)


cdef bint check_sessions(const char* image, const ImageHeader* header) noexcept nogil:
    # Of an image whose sections, routes, pools and stickies are sound.
    cdef:
        const ImageListener* listener = <const ImageListener*>(image + header.listeners.offset)
        uint32_t _i
    if not check_choices(image, header):
        return False
    for _i in range(header.listeners.count):
        if listener.session_route != <uint32_t>NO_INDEX and not check_session_route(image, header, listener.session_route):
            return False
        if listener.settings.max_sessions != 0:
            if not check_datagrams(image, header, listener):
                return False
        elif listener.settings.server_id_bytes != 0:
            return False
        if listener.chooses_by_name and not check_sni(image, header, listener):
            return False
        listener += 1
    return True
