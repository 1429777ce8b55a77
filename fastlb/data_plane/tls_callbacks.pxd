# What OpenSSL asks within a handshake: which certificate, which protocol, what is stapled, whether a session or a certificate will do. For tls.pyx
# alone, which OpenSSL is linked into; the keys of tickets are there.
from libc.stdint cimport uint32_t

from fastlb.data_plane.failure cimport FAILURE_TLS_UNKNOWN_NAME
from fastlb.data_plane.name_table cimport find_host
from fastlb.data_plane.openssl cimport (SSL, SSL_AD_INTERNAL_ERROR, SSL_AD_UNRECOGNIZED_NAME, SSL_CLIENT_HELLO_SUCCESS, SSL_CTX,
                                        SSL_OP_NO_TICKET, SSL_SESSION, SSL_TICKET_EMPTY, SSL_TICKET_NO_DECRYPT, SSL_TICKET_RETURN,
                                        SSL_TICKET_RETURN_IGNORE_RENEW, SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW,
                                        SSL_TICKET_STATUS, SSL_TICKET_SUCCESS_RENEW, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_NOACK,
                                        SSL_TLSEXT_ERR_OK, SSL_VERIFY_NONE, X509, X509_STORE_CTX, ERR_clear_error, OPENSSL_memdup,
                                        SSL_CTX_get_app_data, SSL_SESSION_get0_peer, SSL_client_hello_get0_ext, SSL_get_SSL_CTX,
                                        SSL_get_app_data, SSL_get_certificate, SSL_get_servername, SSL_get_verify_result, SSL_set_SSL_CTX,
                                        SSL_set_num_tickets, SSL_set_options, SSL_set_session_id_context, SSL_set_tlsext_status_ocsp_resp,
                                        SSL_set_verify, TLSEXT_NAMETYPE_host_name, TLSEXT_TYPE_application_layer_protocol_negotiation,
                                        X509_cmp_current_time, X509_get0_notAfter)
from fastlb.data_plane.system cimport memcmp, strlen, unlikely
from fastlb.data_plane.types cimport CLIENT_AUTH_REQUIRED, NO_INDEX, TlsConnection, TlsIdentity, TlsListener

cdef enum:
    ACME_PROTOCOL_BYTES = 11


cdef inline const char* acme_protocol() noexcept nogil:
    # As on the wire (RFC 8737).
    return b"\x0aacme-tls/1"


cdef inline TlsConnection* connection_of(const SSL* ssl) noexcept nogil:
    return <TlsConnection*>SSL_get_app_data(ssl)


cdef inline int note_hello(SSL* ssl, int* alert, void* argument) noexcept nogil:
    # Only where challenges are to be answered: whether this client comes for one (RFC 8737 section 3: no other protocol is offered).
    cdef:
        const unsigned char* data
        size_t size
    if SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &data, &size):
        if size == ACME_PROTOCOL_BYTES + 2 and memcmp(data + 2, acme_protocol(), ACME_PROTOCOL_BYTES) == 0:
            connection_of(ssl).offers_acme = True
    return SSL_CLIENT_HELLO_SUCCESS


cdef inline int choose_certificates(SSL* ssl, int* alert, void* argument) noexcept nogil:
    # By the name that the client asks for, if any.
    cdef:
        TlsConnection* tls = connection_of(ssl)
        const TlsListener* listener = tls.listener
        const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
        uint32_t size = <uint32_t>strlen(name) if name != NULL else 0
        uint32_t found = NO_INDEX
        SSL_CTX* context
    alert[0] = SSL_AD_INTERNAL_ERROR
    if unlikely(tls.offers_acme):
        found = find_host(listener.texts, listener.challenge_names, listener.n_challenges, name, size)
        if found != <uint32_t>NO_INDEX:
            tls.is_challenge = True
            SSL_set_verify(ssl, SSL_VERIFY_NONE, NULL)      # who validates has no certificate
            if SSL_set_SSL_CTX(ssl, <SSL_CTX*>listener.challenges[found].context) == NULL:
                return SSL_TLSEXT_ERR_ALERT_FATAL
            # Nor may it get a session, which would be taken up later as that of a client whose certificate was verified.
            SSL_set_options(ssl, SSL_OP_NO_TICKET)
            if SSL_set_num_tickets(ssl, 0) != 1 or SSL_set_session_id_context(ssl, b"acme", 4) != 1:
                return SSL_TLSEXT_ERR_ALERT_FATAL
            return SSL_TLSEXT_ERR_OK
    if name != NULL:
        found = find_host(listener.texts, listener.names, listener.n_names, name, size)
    if found == <uint32_t>NO_INDEX:
        if listener.default_identity == <uint32_t>NO_INDEX:
            tls.failure = FAILURE_TLS_UNKNOWN_NAME
            alert[0] = SSL_AD_UNRECOGNIZED_NAME
            return SSL_TLSEXT_ERR_ALERT_FATAL
        return SSL_TLSEXT_ERR_NOACK             # the listener's context has the default one
    context = <SSL_CTX*>listener.identities[found].context
    if context != listener.context and SSL_set_SSL_CTX(ssl, context) == NULL:
        return SSL_TLSEXT_ERR_ALERT_FATAL
    return SSL_TLSEXT_ERR_OK


cdef inline int choose_protocol(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_size, const unsigned char* offered, unsigned int size,
                         void* argument) noexcept nogil:
    # The first of ours that the client offers. None: no_application_protocol (RFC 7301 section 3.2), or another protocol's bytes would be
    # read as HTTP.
    cdef:
        TlsConnection* tls = connection_of(ssl)
        const unsigned char* ours = <const unsigned char*>(tls.listener.texts + tls.listener.alpn)
        uint32_t ours_size = tls.listener.alpn_size, at = 0, k
    if unlikely(tls.is_challenge):
        ours = <const unsigned char*>acme_protocol()
        ours_size = ACME_PROTOCOL_BYTES
    if ours_size == 0:
        return SSL_TLSEXT_ERR_NOACK
    while at < ours_size:
        k = 0
        while k < size and k + offered[k] < size:
            if offered[k] == ours[at] and memcmp(offered + k + 1, ours + at + 1, ours[at]) == 0:
                chosen[0] = offered + k + 1
                chosen_size[0] = offered[k]
                return SSL_TLSEXT_ERR_OK
            k += 1 + offered[k]
        at += 1 + ours[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef inline int staple(SSL* ssl, void* argument) noexcept nogil:
    # The OCSP response of the certificate that is served, for a client that asks.
    cdef:
        const TlsIdentity* identity = <const TlsIdentity*>SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl))
        const X509* leaf = SSL_get_certificate(ssl)
        unsigned char* copy
        uint32_t i
    if identity == NULL:
        return SSL_TLSEXT_ERR_NOACK
    for i in range(identity.n_leaves):
        if identity.leaves[i] == <const void*>leaf and identity.ocsp[i] != NULL:
            copy = <unsigned char*>OPENSSL_memdup(identity.ocsp[i], identity.ocsp_size[i])
            if copy == NULL:
                return SSL_TLSEXT_ERR_NOACK
            SSL_set_tlsext_status_ocsp_resp(ssl, copy, identity.ocsp_size[i])      # owned by ssl now
            return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_NOACK


cdef inline int let_pass(int is_right, X509_STORE_CTX* store) noexcept nogil:
    # An optional certificate that does not verify: noted (SSL_get_verify_result), and the handshake goes on.
    if not is_right:
        ERR_clear_error()                       # what the verification left (a wrong signature) would be taken for the handshake's
    return 1


cdef inline SSL_TICKET_RETURN check_session(SSL* ssl, SSL_SESSION* session, const unsigned char* name, size_t size, SSL_TICKET_STATUS status,
                                     void* argument) noexcept nogil:
    # Only where clients are asked for certificates: one that has expired meanwhile, or is not there and has to be, is asked for again.
    cdef X509* certificate
    if status == SSL_TICKET_EMPTY or status == SSL_TICKET_NO_DECRYPT:
        return SSL_TICKET_RETURN_IGNORE_RENEW
    certificate = SSL_SESSION_get0_peer(session)
    if certificate == NULL:
        if connection_of(ssl).listener.client_auth == CLIENT_AUTH_REQUIRED:
            return SSL_TICKET_RETURN_IGNORE_RENEW
    elif X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0:       # 0 = it cannot be read
        return SSL_TICKET_RETURN_IGNORE_RENEW
    return SSL_TICKET_RETURN_USE_RENEW if status == SSL_TICKET_SUCCESS_RENEW else SSL_TICKET_RETURN_USE
