"""What an image says of TLS, checked once. No state."""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.image cimport range_fits, text_fits
from fastlb.data_plane.name_table cimport check_names
from fastlb.data_plane.system cimport memchr
from fastlb.data_plane.types cimport (CLIENT_AUTH_KINDS, CLIENT_AUTH_NONE, MAX_CLIENT_DEPTH, MAX_EARLY_DATA_BYTES, MAX_HANDSHAKE_MS, MAX_KEY_TYPES, MAX_TICKET_KEYS,
                                      MAX_TLS_LIST_BYTES, MAX_TLS_TEXT_BYTES, NO_INDEX, ImageBackend, ImageBackendTls, ImageCertificate, ImageHeader, ImageListener,
                                      ImagePool, ImageText, ImageTls, ImageTlsIdentity)

cdef enum:
    TLS_1_2 = 0x0303
    TLS_1_3 = 0x0304


cdef bint check_list(const char* image, size_t size, const ImageText* text) noexcept nogil:
    # A text for OpenSSL: short, without a zero byte but for its last one. None is allowed.
    return text_fits(size, text) and (text.size == 0 or (
        text.size <= MAX_TLS_LIST_BYTES and memchr(image + text.offset, 0, text.size) == image + text.offset + text.size - 1))


cdef bint check_protocols(const char* image, size_t size, const ImageText* alpn) noexcept nogil:
    # A list of protocols as ALPN has it (RFC 7301 section 3.1): each behind a byte with its size, which is not 0.
    cdef uint32_t at = 0, protocol
    if alpn.size > MAX_TLS_LIST_BYTES or not text_fits(size, alpn):
        return False
    while at < alpn.size:
        protocol = <uint8_t>image[alpn.offset + at]
        if protocol == 0 or protocol >= alpn.size - at:
            return False
        at += 1 + protocol
    return True


cdef bint check_listener(const char* image, const ImageHeader* header, const ImageTls* tls) noexcept nogil:
    cdef size_t size = header.size
    if not range_fits(&tls.identities, &header.tls_identities) or not check_names(image, header, &tls.names, tls.identities.count) \
            or not check_names(image, header, &tls.challenges, header.certificates.count):
        return False
    if tls.default_identity != <uint32_t>NO_INDEX and tls.default_identity >= tls.identities.count:
        return False
    if tls.min_version < TLS_1_2 or tls.max_version > TLS_1_3 or tls.min_version > tls.max_version:
        return False
    if not check_list(image, size, &tls.ciphers) or not check_list(image, size, &tls.ciphersuites) or not check_list(image, size, &tls.groups) \
            or not check_protocols(image, size, &tls.alpn):
        return False
    if tls.handshake_timeout_ms - 1 >= <uint32_t>MAX_HANDSHAKE_MS or tls.session_timeout_s > 0x7FFFFFFF or tls.tickets > 1:
        return False
    if tls.client_auth >= CLIENT_AUTH_KINDS or tls.client_depth > MAX_CLIENT_DEPTH or not text_fits(size, &tls.client_ca) \
            or not text_fits(size, &tls.client_crl) or tls.client_ca.size > MAX_TLS_TEXT_BYTES or tls.client_crl.size > MAX_TLS_TEXT_BYTES:
        return False
    # Certificates of clients are verified in a handshake that is over.
    if tls.early_data_bytes > MAX_EARLY_DATA_BYTES or (tls.early_data_bytes != 0 and tls.client_auth != CLIENT_AUTH_NONE):
        return False
    return tls.client_auth == CLIENT_AUTH_NONE or tls.client_ca.size != 0


cdef bint check_backend_tls(const char* image, const ImageHeader* header) noexcept nogil:
    cdef:
        const ImageBackendTls* tls = <const ImageBackendTls*>(image + header.backend_tls.offset)
        const ImagePool* pools = <const ImagePool*>(image + header.pools.offset)
        const ImageBackend* backends = <const ImageBackend*>(image + header.backends.offset)
        size_t size = header.size
        uint32_t i
    for i in range(header.backend_tls.count):
        if tls[i].verify > 1 or tls[i].resume > 1 or tls[i].min_version < TLS_1_2 or tls[i].max_version > TLS_1_3 \
                or tls[i].min_version > tls[i].max_version \
                or (tls[i].certificate != <uint32_t>NO_INDEX and tls[i].certificate >= header.certificates.count):
            return False
        if not check_list(image, size, &tls[i].server_name) or not check_list(image, size, &tls[i].ciphers) \
                or not check_list(image, size, &tls[i].ciphersuites) or not check_list(image, size, &tls[i].groups) \
                or not check_protocols(image, size, &tls[i].alpn) or not text_fits(size, &tls[i].authorities) \
                or tls[i].authorities.size > MAX_TLS_TEXT_BYTES or (tls[i].verify and tls[i].authorities.size == 0):
            return False
    for i in range(header.pools.count):
        if pools[i].tls != <uint32_t>NO_INDEX and pools[i].tls >= header.backend_tls.count:
            return False
    for i in range(header.backends.count):
        if not check_list(image, size, &backends[i].tls_name):
            return False
    return True


cdef bint check_tls(const char* image, const ImageHeader* header) noexcept nogil:
    # All that an image whose sections are known to lie inside it says of TLS, and the listeners' numbers of it.
    cdef:
        const ImageCertificate* certificates = <const ImageCertificate*>(image + header.certificates.offset)
        const ImageTlsIdentity* identities = <const ImageTlsIdentity*>(image + header.tls_identities.offset)
        const ImageTls* tls = <const ImageTls*>(image + header.tls.offset)
        const ImageListener* listeners = <const ImageListener*>(image + header.listeners.offset)
        uint32_t i, k
    if header.ticket_keys.count > MAX_TICKET_KEYS or not check_backend_tls(image, header):
        return False
    for i in range(header.certificates.count):
        if not text_fits(header.size, &certificates[i].chain) or not text_fits(header.size, &certificates[i].key) \
                or not text_fits(header.size, &certificates[i].ocsp) or certificates[i].chain.size > MAX_TLS_TEXT_BYTES \
                or certificates[i].key.size > MAX_TLS_TEXT_BYTES or certificates[i].ocsp.size > 65535:
            return False
    for i in range(header.tls_identities.count):
        if identities[i].n_certificates - 1 >= <uint32_t>MAX_KEY_TYPES:
            return False
        for k in range(identities[i].n_certificates):
            if identities[i].certificates[k] >= header.certificates.count:
                return False
    for i in range(header.tls.count):
        if not check_listener(image, header, &tls[i]):
            return False
    for i in range(header.listeners.count):
        if listeners[i].tls != <uint32_t>NO_INDEX and listeners[i].tls >= header.tls.count:
            return False
    return True
