"""TLS through OpenSSL: what an image says of it, compiled to contexts; and the Transport over it.

The one module that knows OpenSSL. A TlsListener is compiled once for a snapshot, in any thread, and never changes; contexts that connections
use stay as long as those. A connection's SSL never sees a socket: its BIO takes bytes from what one recv of the event has brought, and
collects records for one send. Between two calls of the transport the worker's scratch (Engine.tls) is empty; what a caller had no room for
waits in TlsConnection.received, what the socket had no room for in TlsConnection.held.

The Transport's promises are those of `transport`, so nobody above knows of records:
- A short read means that all was used. After a read that fills its buffer, IO_READABLE stays set.
- Where the socket does not take all records of a send, the last byte of what they carry is said not to have been taken. So the caller waits for
  IO_WRITABLE and sends again from that byte on; the records that wait go first then, and the byte, which they hold, is not encrypted again.
  Nobody else has to flush anything.

OpenSSL's queue of errors belongs to the thread, and others use it too: it is empty before each call that may fail, and after each that has.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.failure cimport FAILURE_BACKEND_CERTIFICATE, FAILURE_BACKEND_TLS
from fastlb.data_plane.failure cimport (FAILURE_OUT_OF_MEMORY, FAILURE_TLS_ALERT, FAILURE_TLS_CLIENT_CERTIFICATE, FAILURE_TLS_CLOSED,
                                        FAILURE_TLS_NO_SHARED_CIPHER, FAILURE_TLS_PROTOCOL, FAILURE_TLS_UNKNOWN_NAME)
from fastlb.data_plane.openssl cimport CRYPTO_set_mem_functions, SSL_get0_alpn_selected, SSL_version, TLS1_3_VERSION
from fastlb.data_plane.openssl cimport (SSL_EARLY_DATA_ACCEPTED, SSL_EARLY_DATA_REJECTED, SSL_OP_NO_ANTI_REPLAY, SSL_READ_EARLY_DATA_FINISH,
                                        SSL_READ_EARLY_DATA_SUCCESS, SSL_CTX_set_max_early_data, SSL_get_early_data_status, SSL_read_early_data, SSL_write_early_data)
from fastlb.data_plane.openssl cimport ERR_peek_last_error, PEM_R_NO_START_LINE
from fastlb.data_plane.openssl cimport (SSL_TICKET_EMPTY, SSL_TICKET_NO_DECRYPT, SSL_TICKET_RETURN, SSL_TICKET_RETURN_IGNORE_RENEW,
                                        SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW, SSL_TICKET_STATUS, SSL_TICKET_SUCCESS_RENEW,
                                        X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, SSL_CTX_set_session_ticket_cb, SSL_SESSION_get0_peer,
                                        SSL_set_num_tickets, SSL_set_options, SSL_set_session_id_context, X509_cmp_current_time,
                                        X509_get0_notAfter)
from fastlb.data_plane.openssl cimport (BIGNUM, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL, SSL_SESSION, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS,
                                        X509_NAME, X509_V_OK, X509_VERIFY_PARAM, XN_FLAG_RFC2253, ASN1_INTEGER_to_BN, BIO_get_mem_data, BIO_puts,
                                        BIO_s_mem, BN_bn2hex, BN_free, SSL_CIPHER_get_name, SSL_CTX_sess_set_new_cb, SSL_CTX_set_alpn_protos,
                                        SSL_SESSION_free, SSL_get0_param, SSL_get0_peer_certificate, SSL_get_current_cipher,
                                        SSL_get_verify_result, SSL_get_version, SSL_set_alpn_protos, SSL_set_connect_state, SSL_set_session, SSL_set_tlsext_host_name, SSL_set_verify,
                                        X509_NAME_print_ex, X509_VERIFY_PARAM_set1_host, X509_VERIFY_PARAM_set1_ip,
                                        X509_VERIFY_PARAM_set1_ip_asc, X509_VERIFY_PARAM_set_hostflags, X509_digest, X509_get0_serialNumber,
                                        X509_get_issuer_name, X509_verify_cert_error_string)
from fastlb.data_plane.openssl cimport (BIO, BIO_CTRL_FLUSH, BIO_METHOD, BIO_TYPE_SOURCE_SINK, EVP_CIPHER, EVP_CIPHER_CTX, EVP_MAC_CTX,
                                        EVP_PKEY, OPENSSL_VERSION, SSL, SSL_AD_INTERNAL_ERROR, SSL_AD_REASON_OFFSET,
                                        SSL_AD_UNRECOGNIZED_NAME, SSL_CLIENT_HELLO_SUCCESS, SSL_CTX, SSL_ERROR_WANT_READ,
                                        SSL_ERROR_ZERO_RETURN, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER,
                                        SSL_MODE_RELEASE_BUFFERS, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_NO_COMPRESSION,
                                        SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_TICKET, SSL_OP_PRIORITIZE_CHACHA, SSL_R_CERTIFICATE_VERIFY_FAILED,
                                        SSL_R_NO_APPLICATION_PROTOCOL, SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_GROUPS,
                                        SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_SUITABLE_KEY_SHARE,
                                        SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE,
                                        SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_VERSION_TOO_LOW, SSL_RECEIVED_SHUTDOWN, SSL_SENT_SHUTDOWN,
                                        SSL_SESS_CACHE_OFF, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_OK,
                                        SSL_VERIFY_FAIL_IF_NO_PEER_CERT, SSL_VERIFY_NONE, SSL_VERIFY_PEER,
                                        TLSEXT_NAMETYPE_host_name, TLSEXT_TYPE_application_layer_protocol_negotiation, X509, X509_CRL, X509_NAME_STACK,
                                        X509_STACK, X509_STORE, X509_STORE_CTX, X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL,
                                        BIO_clear_retry_flags, BIO_free, BIO_get_data, BIO_get_new_index, BIO_meth_new, BIO_meth_set_ctrl,
                                        BIO_meth_set_read, BIO_meth_set_write, BIO_new, BIO_new_mem_buf, BIO_set_data, BIO_set_init,
                                        BIO_set_retry_read, ERR_GET_REASON, ERR_clear_error, ERR_error_string_n, ERR_peek_error,
                                        EVP_CIPHER_fetch, EVP_DecryptInit_ex2, EVP_Digest, EVP_EncryptInit_ex2, EVP_PKEY_free, EVP_sha1, EVP_sha256,
                                        OPENSSL_free, OPENSSL_memdup, OpenSSL_version, PEM_read_bio_X509, PEM_read_bio_X509_CRL, RAND_bytes,
                                        SSL_CTX_check_private_key, SSL_CTX_free, SSL_CTX_get_app_data, SSL_CTX_new, SSL_CTX_set0_chain, SSL_CTX_set1_cert_store,
                                        SSL_CTX_set1_groups_list, SSL_CTX_set_alpn_select_cb, SSL_CTX_set_app_data, SSL_CTX_set_cipher_list,
                                        SSL_CTX_set_ciphersuites, SSL_CTX_set_client_CA_list, SSL_CTX_set_client_hello_cb,
                                        SSL_CTX_set_max_proto_version, SSL_CTX_set_min_proto_version, SSL_CTX_set_mode,
                                        SSL_CTX_set_num_tickets, SSL_CTX_set_options, SSL_CTX_set_session_cache_mode,
                                        SSL_CTX_set_session_id_context, SSL_CTX_set_timeout, SSL_CTX_set_tlsext_servername_callback,
                                        SSL_CTX_set_tlsext_status_cb, SSL_CTX_set_tlsext_ticket_key_evp_cb, SSL_CTX_set_verify,
                                        SSL_CTX_set_verify_depth, SSL_CTX_up_ref, SSL_CTX_use_PrivateKey, SSL_CTX_use_certificate,
                                        SSL_client_hello_get0_ext, SSL_do_handshake, SSL_dup_CA_list, SSL_free, SSL_get_SSL_CTX,
                                        SSL_get_app_data, SSL_get_certificate, SSL_get_error, SSL_get_servername, SSL_new, SSL_pending,
                                        SSL_read_ex, SSL_session_reused, SSL_set_SSL_CTX, SSL_set_accept_state, SSL_set_app_data, SSL_set_bio,
                                        SSL_set_shutdown, SSL_set_tlsext_status_ocsp_resp, SSL_shutdown, SSL_write_ex, TLS_method,
                                        X509_CRL_free, X509_NAME_dup, X509_NAME_free, X509_STORE_add_cert, X509_STORE_add_crl, X509_STORE_free,
                                        X509_STORE_new, X509_STORE_set_flags, X509_free, X509_get_subject_name, read_key, sk_X509_NAME_new_null,
                                        sk_X509_NAME_pop_free, sk_X509_NAME_push, sk_X509_new_null, sk_X509_pop_free, sk_X509_push, start_mac)
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport (AF_INET, AF_INET6, ENOMEM, EPROTO, likely, memcmp, memcpy, memset, sockaddr, sockaddr_in, sockaddr_in6, strlen,
                                       unlikely)
from fastlb.data_plane.name_table cimport find_host
from fastlb.data_plane.tls_memory cimport WATCHES_MEMORY, resize_memory, return_memory, take_memory
from fastlb.data_plane.types cimport (TLS_CIPHER, TLS_CLIENT_FINGERPRINT, TLS_CLIENT_ISSUER, TLS_CLIENT_SERIAL, TLS_CLIENT_SUBJECT,
                                      TLS_CLIENT_VERIFY, TLS_RESUMED, TLS_SERVER_NAME, TLS_VERSION, Backend, ImageBackend, ImageBackendTls, Pool,
                                      TlsBackend, TlsFacts)
from fastlb.data_plane.types cimport RELAY_RUNNING, WAIT_UNSET, WAIT_WRITE, X_KEEP_ALIVE, X_SESSION, X_TUNNEL, Exchange
from fastlb.data_plane.types cimport (CLIENT_AUTH_NONE, CLIENT_AUTH_REQUIRED, IO_AGAIN, IO_CLOSED, IO_EOF, IO_ERROR, IO_PUT_OFF, IO_READABLE, IO_WRITABLE,
                                      IO_WRITE_CLOSED, KIND_CLIENT, MAX_KEY_TYPES, NO_INDEX, TICKET_KEY_BYTES, X_CAME_BY_TLS, Connection,
                                      Engine, ImageCertificate, ImageHeader, ImageListener, ImageSection, ImageText, ImageTicketKey, ImageTls,
                                      ImageTlsIdentity, ImageName, Snapshot, TlsConnection, TlsIdentity, TlsListener, TlsScratch,
                                      Transport)

cdef enum:
    RECEIVE_BYTES = 65536           # one recv: as much as a relay's read wants
    RECORD_BYTES = 16384            # the most that a record carries (RFC 8446 section 5.1)
    SEND_BYTES = 65536              # of plain bytes in one send
    SENDING_BYTES = 65536 + 16384   # with what records add, of 512 bytes even (RFC 6066 section 4); or a flight: a chain of 64 KB fits
    MAX_HELD_BYTES = 131072         # a socket that takes nothing while it asks for answers (KeyUpdate) is closed
    MAX_SILENT_BYTES = 65536        # of records without data in a row (KeyUpdate, tickets): a record of 16 KB that comes in pieces is below it
    MAX_TICKET_BYTES = 4096         # that share a send with data; one with a client's certificate in it may be larger
    MAX_RECORDS = 512               # in one call, then others have their turn: each costs a microsecond, also with one byte in it
    IV_BYTES = 16                   # of AES-256-CBC
    NAME_BYTES = 16                 # a ticket key: its name, then the key for HMAC, then that for AES
    MAC_KEY = 16
    CIPHER_KEY = 48
    DIGEST_BYTES = 32
    MAX_FACT_BYTES = 1024           # of a name in a certificate: more is cut

# ECDHE with AEAD only; AES first, and ChaCha20 where the client prefers it (SSL_OP_PRIORITIZE_CHACHA). ECDSA before RSA: its signatures cost
# us a thirtieth.
cdef const char* CIPHERS = (b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
                            b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305")
cdef const char* CIPHERSUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
cdef const char* GROUPS = b"X25519:P-256:P-384"
cdef const char* ACME_PROTOCOL = b"\x0aacme-tls/1"      # as on the wire (RFC 8737)
cdef enum:
    ACME_PROTOCOL_BYTES = 11

# Made at import and never changed: how SSLs reach their connections, and the cipher of tickets, which is slow to look up.
cdef BIO_METHOD* METHOD
cdef EVP_CIPHER* TICKET_CIPHER


cdef const char* openssl_version() noexcept nogil:
    return OpenSSL_version(OPENSSL_VERSION)


cdef inline void clear_errors() noexcept nogil:
    # What somebody else in this thread has left.
    if unlikely(ERR_peek_error() != 0):
        ERR_clear_error()


# ---------------------------------------------------------------------------------------------------------- callbacks of a handshake
cdef inline TlsConnection* connection_of(const SSL* ssl) noexcept nogil:
    return <TlsConnection*>SSL_get_app_data(ssl)


cdef int note_hello(SSL* ssl, int* alert, void* argument) noexcept nogil:
    # Only where challenges are to be answered: whether this client comes for one (RFC 8737 section 3: no other protocol is offered).
    cdef:
        const unsigned char* data
        size_t size
    if SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &data, &size):
        if size == ACME_PROTOCOL_BYTES + 2 and memcmp(data + 2, ACME_PROTOCOL, ACME_PROTOCOL_BYTES) == 0:
            connection_of(ssl).offers_acme = True
    return SSL_CLIENT_HELLO_SUCCESS


cdef int choose_certificates(SSL* ssl, int* alert, void* argument) noexcept nogil:
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


cdef int choose_protocol(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_size, const unsigned char* offered, unsigned int size,
                         void* argument) noexcept nogil:
    # The first of ours that the client offers. None: no_application_protocol (RFC 7301 section 3.2), or another protocol's bytes would be
    # read as HTTP.
    cdef:
        TlsConnection* tls = connection_of(ssl)
        const unsigned char* ours = <const unsigned char*>(tls.listener.texts + tls.listener.alpn)
        uint32_t ours_size = tls.listener.alpn_size, at = 0, k
    if unlikely(tls.is_challenge):
        ours = <const unsigned char*>ACME_PROTOCOL
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


cdef int staple(SSL* ssl, void* argument) noexcept nogil:
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


cdef int seal_ticket(SSL* ssl, unsigned char* name, unsigned char* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac, int encrypts) noexcept nogil:
    # The keys of a ticket: the newest for one that is made; for one that a client brings the one with its name, and 2 where the client gets
    # another one: with TLS 1.3, where each is to be used once (RFC 8446 section C.4), and where the key is not the newest. 0: none, so a full
    # handshake follows.
    cdef:
        TlsConnection* tls = connection_of(ssl)
        TlsListener* listener = tls.listener
        const uint8_t* key
        uint32_t i
    if unlikely(listener == NULL or listener.n_ticket_keys == 0 or tls.is_challenge):
        return 0
    key = listener.ticket_keys
    if encrypts:
        memcpy(name, key, NAME_BYTES)
        if RAND_bytes(iv, IV_BYTES) != 1:
            return -1
        return 1 if EVP_EncryptInit_ex2(cipher, TICKET_CIPHER, key + CIPHER_KEY, iv, NULL) == 1 and start_mac(mac, key + MAC_KEY) == 1 else -1
    for i in range(listener.n_ticket_keys):
        if memcmp(name, key, NAME_BYTES) == 0:
            if start_mac(mac, key + MAC_KEY) != 1 or EVP_DecryptInit_ex2(cipher, TICKET_CIPHER, key + CIPHER_KEY, iv, NULL) != 1:
                return -1
            return 1 if i == 0 and SSL_version(ssl) != TLS1_3_VERSION else 2
        key += TICKET_KEY_BYTES
    return 0


cdef int let_pass(int is_right, X509_STORE_CTX* store) noexcept nogil:
    # An optional certificate that does not verify: noted (SSL_get_verify_result), and the handshake goes on.
    if not is_right:
        ERR_clear_error()                       # what the verification left (a wrong signature) would be taken for the handshake's
    return 1


cdef SSL_TICKET_RETURN check_session(SSL* ssl, SSL_SESSION* session, const unsigned char* name, size_t size, SSL_TICKET_STATUS status,
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


# ---------------------------------------------------------------------------------------------------------- from an image to contexts
cdef struct Material:
    # What the contexts of one listener share while they are made.
    const char* image               # borrowed, as what follows
    const ImageHeader* header
    const ImageTls* tls
    X509_STORE* authorities         # owned; NULL = clients are not asked for certificates
    X509_NAME_STACK* names          # owned: of the authorities
    unsigned char session_context[DIGEST_BYTES]


cdef BIO* open_text(const char* image, const ImageText* text) noexcept nogil:
    return BIO_new_mem_buf(image + text.offset, <int>text.size)


cdef bint is_at_end() noexcept nogil:
    # Whether nothing more of a PEM text could be read because nothing is left. What cannot be parsed is an error: a bundle must not be cut there
    # without a word.
    if ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE:
        return False
    ERR_clear_error()
    return True


cdef bint read_authorities(Material* material) noexcept nogil:
    # Who may have signed clients' certificates, and which of those are revoked.
    cdef:
        BIO* bio = open_text(material.image, &material.tls.client_ca)
        X509* certificate
        X509_CRL* crl
        bint done = bio != NULL
        uint32_t n = 0
    material.authorities = X509_STORE_new()
    material.names = sk_X509_NAME_new_null()
    done = done and material.authorities != NULL and material.names != NULL
    while done:
        certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if certificate == NULL:
            done = is_at_end()
            break
        n += 1
        done = X509_STORE_add_cert(material.authorities, certificate) == 1 \
            and sk_X509_NAME_push(material.names, X509_NAME_dup(X509_get_subject_name(certificate))) > 0
        X509_free(certificate)
    BIO_free(bio)
    if not done or n == 0:
        return False
    if material.tls.client_crl.size == 0:
        return True
    bio = open_text(material.image, &material.tls.client_crl)
    done = bio != NULL
    n = 0
    while done:
        crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)
        if crl == NULL:
            done = is_at_end()
            break
        n += 1
        done = X509_STORE_add_crl(material.authorities, crl) == 1
        X509_CRL_free(crl)
    BIO_free(bio)
    X509_STORE_set_flags(material.authorities, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL)
    return done and n != 0


cdef bint make_session_context(Material* material, const ImageListener* listener) noexcept nogil:
    # Sessions are resumed only where clients were verified in the same way: the listener's name and all that it asks of their certificates.
    cdef:
        const ImageTls* tls = material.tls
        unsigned char parts[4 * DIGEST_BYTES]
        unsigned char* at = parts
        const char* image = material.image
        bint done
    done = EVP_Digest(image + listener.name.offset, listener.name.size, at, NULL, EVP_sha256(), NULL) == 1 \
        and EVP_Digest(image + tls.client_ca.offset, tls.client_ca.size, at + DIGEST_BYTES, NULL, EVP_sha256(), NULL) == 1 \
        and EVP_Digest(image + tls.client_crl.offset, tls.client_crl.size, at + 2 * DIGEST_BYTES, NULL, EVP_sha256(), NULL) == 1
    at += 3 * DIGEST_BYTES
    memcpy(at, &tls.client_auth, sizeof(uint32_t))
    memcpy(at + sizeof(uint32_t), &tls.client_depth, sizeof(uint32_t))
    return done and EVP_Digest(parts, 3 * DIGEST_BYTES + 2 * sizeof(uint32_t), material.session_context, NULL, EVP_sha256(), NULL) == 1


cdef SSL_CTX* make_context(Material* material) noexcept nogil:
    # A context with a listener's settings and no certificate. NULL: out of memory, or one of them cannot be used.
    cdef:
        const ImageTls* tls = material.tls
        const char* image = material.image
        X509_NAME_STACK* names
        SSL_CTX* context = SSL_CTX_new(TLS_method())
        bint done, gives_tickets = tls.tickets and material.header.ticket_keys.count != 0
    if context == NULL:
        return NULL
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA)
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_timeout(context, tls.session_timeout_s)
    if not gives_tickets:
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET)
    SSL_CTX_set_tlsext_servername_callback(context, choose_certificates)
    SSL_CTX_set_tlsext_status_cb(context, staple)
    SSL_CTX_set_tlsext_ticket_key_evp_cb(context, seal_ticket)
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL)
    if tls.early_data_bytes != 0:
        # Its defence against repetition is a store of sessions, each used once; ours are with the clients, for all workers (early_data.pyx).
        SSL_CTX_set_options(context, SSL_OP_NO_ANTI_REPLAY)
        SSL_CTX_set_max_early_data(context, tls.early_data_bytes)
    if tls.challenges.count != 0:
        SSL_CTX_set_client_hello_cb(context, note_hello, NULL)
    done = SSL_CTX_set_min_proto_version(context, <int>tls.min_version) == 1 and SSL_CTX_set_max_proto_version(context, <int>tls.max_version) == 1 \
        and SSL_CTX_set_cipher_list(context, image + tls.ciphers.offset if tls.ciphers.size else CIPHERS) == 1 \
        and SSL_CTX_set_ciphersuites(context, image + tls.ciphersuites.offset if tls.ciphersuites.size else CIPHERSUITES) == 1 \
        and SSL_CTX_set1_groups_list(context, image + tls.groups.offset if tls.groups.size else GROUPS) == 1 \
        and SSL_CTX_set_num_tickets(context, 1 if gives_tickets else 0) == 1 \
        and SSL_CTX_set_session_id_context(context, material.session_context, DIGEST_BYTES) == 1
    if done and material.authorities != NULL:
        names = SSL_dup_CA_list(material.names)
        done = names != NULL
        SSL_CTX_set_client_CA_list(context, names)          # owned by context now, as a count of the store is
        SSL_CTX_set1_cert_store(context, material.authorities)
        SSL_CTX_set_verify_depth(context, <int>tls.client_depth)
        done = done and SSL_CTX_set_session_ticket_cb(context, NULL, check_session, NULL) == 1
        if tls.client_auth == CLIENT_AUTH_REQUIRED:
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL)
        else:
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER, let_pass)
    if not done:
        SSL_CTX_free(context)
        return NULL
    return context


cdef bint add_certificate(Material* material, TlsIdentity* identity, uint32_t number) noexcept nogil:
    # One more certificate of an identity, with its chain, its key and what is stapled to it.
    cdef:
        SSL_CTX* context = <SSL_CTX*>identity.context
        const ImageCertificate* image = <const ImageCertificate*>(material.image + material.header.certificates.offset) + number
        X509_STACK* chain = sk_X509_new_null()
        X509* leaf = NULL
        X509* certificate
        EVP_PKEY* key = NULL
        BIO* bio = open_text(material.image, &image.chain)
        bint done = bio != NULL and chain != NULL
    if done:
        leaf = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        done = leaf != NULL
    while done:
        certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if certificate == NULL:
            done = is_at_end()
            break
        done = sk_X509_push(chain, certificate) > 0
        if not done:
            X509_free(certificate)
    BIO_free(bio)
    if done:
        bio = open_text(material.image, &image.key)
        key = read_key(bio) if bio != NULL else NULL
        BIO_free(bio)
        done = key != NULL and SSL_CTX_use_certificate(context, leaf) == 1 and SSL_CTX_use_PrivateKey(context, key) == 1 \
            and SSL_CTX_check_private_key(context) == 1
    EVP_PKEY_free(key)
    if done:
        done = SSL_CTX_set0_chain(context, chain) == 1          # of the certificate that was added last
        if done:
            chain = NULL
    if done and image.ocsp.size != 0:
        identity.ocsp[identity.n_leaves] = <char*>malloc(image.ocsp.size)
        done = identity.ocsp[identity.n_leaves] != NULL
        if done:
            memcpy(identity.ocsp[identity.n_leaves], material.image + image.ocsp.offset, image.ocsp.size)
            identity.ocsp_size[identity.n_leaves] = image.ocsp.size
    if done:
        identity.leaves[identity.n_leaves] = leaf
        identity.n_leaves += 1
    X509_free(leaf)                             # context has counted it
    sk_X509_pop_free(chain, X509_free)
    return done


cdef bint make_identity(Material* material, TlsIdentity* identity, const uint32_t* certificates, uint32_t n_certificates) noexcept nogil:
    cdef:
        SSL_CTX* context = make_context(material)
        uint32_t i
    identity.context = context
    if context == NULL or SSL_CTX_set_app_data(context, identity) != 1:
        return False
    for i in range(n_certificates):
        if not add_certificate(material, identity, certificates[i]):
            return False
    return True


cdef void free_identities(TlsIdentity* identities, uint32_t count) noexcept nogil:
    cdef uint32_t i, k
    if identities == NULL:
        return
    for i in range(count):
        if identities[i].context != NULL:
            SSL_CTX_set_app_data(<SSL_CTX*>identities[i].context, NULL)     # connections may still hold the context
            SSL_CTX_free(<SSL_CTX*>identities[i].context)
        for k in range(MAX_KEY_TYPES):
            free(identities[i].ocsp[k])
    free(identities)


cdef void drop_tls(TlsListener* listener) noexcept nogil:
    # One reference less; NULL is allowed.
    if listener == NULL:
        return
    listener.references -= 1
    if listener.references > 0:
        return
    SSL_CTX_free(<SSL_CTX*>listener.context)
    free_identities(listener.identities, listener.n_identities)
    free_identities(listener.challenges, listener.n_challenges)
    free(listener.names)
    free(listener.challenge_names)
    free(listener.texts)
    free(listener)


cdef ImageName* copy_names(const Material* material, const ImageSection* section, char* texts, uint32_t* at) noexcept nogil:
    # Names of the image, whose texts are put to `texts` from `at` on; owned by the caller.
    cdef:
        const ImageName* image = <const ImageName*>(material.image + material.header.names.offset) + section.offset
        ImageName* names = <ImageName*>calloc(section.count + 1, sizeof(ImageName))
        uint32_t i
    if names == NULL:
        return NULL
    for i in range(section.count):
        names[i].name.offset = at[0]
        names[i].name.size = image[i].name.size
        names[i].target = image[i].target
        memcpy(texts + at[0], material.image + image[i].name.offset, image[i].name.size)
        at[0] += image[i].name.size
    return names


cdef size_t count_name_bytes(const Material* material, const ImageSection* section) noexcept nogil:
    cdef:
        const ImageName* image = <const ImageName*>(material.image + material.header.names.offset) + section.offset
        size_t size = 0
        uint32_t i
    for i in range(section.count):
        size += image[i].name.size
    return size


cdef int fill_listener(Material* material, TlsListener* listener) noexcept nogil:
    # 0, ENOMEM or BAD_TLS; what is there then is for drop_tls.
    cdef:
        const ImageTls* tls = material.tls
        const ImageTlsIdentity* identities = <const ImageTlsIdentity*>(material.image + material.header.tls_identities.offset) \
            + tls.identities.offset
        uint32_t i, at = 0
        uint32_t certificate
    listener.handshake_timeout_ms = tls.handshake_timeout_ms
    listener.client_auth = tls.client_auth
    listener.default_identity = tls.default_identity
    listener.n_ticket_keys = material.header.ticket_keys.count if tls.tickets else 0
    listener.takes_early = tls.early_data_bytes != 0
    memcpy(listener.ticket_keys, material.image + material.header.ticket_keys.offset, listener.n_ticket_keys * sizeof(ImageTicketKey))
    listener.texts = <char*>malloc(count_name_bytes(material, &tls.names) + count_name_bytes(material, &tls.challenges) + tls.alpn.size + 1)
    listener.identities = <TlsIdentity*>calloc(tls.identities.count + 1, sizeof(TlsIdentity))
    listener.challenges = <TlsIdentity*>calloc(tls.challenges.count + 1, sizeof(TlsIdentity))
    if listener.texts == NULL or listener.identities == NULL or listener.challenges == NULL:
        return ENOMEM
    listener.n_identities = tls.identities.count
    listener.n_challenges = tls.challenges.count
    listener.names = copy_names(material, &tls.names, listener.texts, &at)
    listener.challenge_names = copy_names(material, &tls.challenges, listener.texts, &at)
    if listener.names == NULL or listener.challenge_names == NULL:
        return ENOMEM
    listener.n_names = tls.names.count
    listener.alpn = at
    listener.alpn_size = tls.alpn.size
    memcpy(listener.texts + at, material.image + tls.alpn.offset, tls.alpn.size)
    for i in range(tls.identities.count):
        if not make_identity(material, &listener.identities[i], identities[i].certificates, identities[i].n_certificates):
            return BAD_TLS
    for i in range(tls.challenges.count):
        certificate = listener.challenge_names[i].target
        listener.challenge_names[i].target = i  # each has an identity of its own
        if not make_identity(material, &listener.challenges[i], &certificate, 1):
            return BAD_TLS
    if tls.default_identity != <uint32_t>NO_INDEX:
        listener.context = listener.identities[tls.default_identity].context
        SSL_CTX_up_ref(<SSL_CTX*>listener.context)
    else:
        listener.context = make_context(material)
    return 0 if listener.context != NULL else BAD_TLS


cdef int make_listener(Material* material, const ImageListener* image, TlsListener** made) noexcept nogil:
    cdef:
        TlsListener* listener = <TlsListener*>calloc(1, sizeof(TlsListener))
        int error = 0
    if listener == NULL:
        return ENOMEM
    listener.references = 1
    if not make_session_context(material, image) or (material.tls.client_auth != CLIENT_AUTH_NONE and not read_authorities(material)):
        error = BAD_TLS
    else:
        error = fill_listener(material, listener)
    X509_STORE_free(material.authorities)
    if material.names != NULL:
        sk_X509_NAME_pop_free(material.names, X509_NAME_free)
    if error:
        drop_tls(listener)
        return error
    made[0] = listener
    return 0


# ---------------------------------------------------------------------------------------------------------- contexts for backends
cdef int keep_session(SSL* ssl, SSL_SESSION* session) noexcept nogil:
    # A backend gives us a session: its next connection takes it up. 1 = ours now.
    cdef:
        TlsConnection* tls = connection_of(ssl)
        Backend* backend = tls.connection.backend
    if backend == NULL:
        return 0
    drop_tls_session(backend)
    backend.tls_session = session
    backend.tls_session_settings = tls.settings
    return 1


cdef void drop_tls_session(Backend* backend) noexcept nogil:
    SSL_SESSION_free(<SSL_SESSION*>backend.tls_session)
    backend.tls_session = NULL


cdef bint add_bundle(X509_STORE* store, const char* image, const ImageText* text) noexcept nogil:
    cdef:
        BIO* bio = open_text(image, text)
        X509* certificate
        bint done = bio != NULL
        uint32_t n = 0
    while done:
        certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if certificate == NULL:
            done = is_at_end()
            break
        n += 1
        done = X509_STORE_add_cert(store, certificate) == 1
        X509_free(certificate)
    BIO_free(bio)
    return done and n != 0


cdef bint hash_settings(const char* image, const ImageHeader* header, const ImageBackendTls* tls, uint64_t* hash) noexcept nogil:
    # Over all that decides who is believed and as whom we come: sessions and idle connections made under others are not used.
    cdef:
        const ImageCertificate* certificate
        unsigned char parts[4 * DIGEST_BYTES]
        bint done
    memset(parts, 0, sizeof(parts))
    done = EVP_Digest(image + tls.server_name.offset, tls.server_name.size, parts, NULL, EVP_sha256(), NULL) == 1 \
        and EVP_Digest(image + tls.authorities.offset, tls.authorities.size, parts + DIGEST_BYTES, NULL, EVP_sha256(), NULL) == 1
    if done and tls.certificate != <uint32_t>NO_INDEX:
        certificate = <const ImageCertificate*>(image + header.certificates.offset) + tls.certificate
        done = EVP_Digest(image + certificate.chain.offset, certificate.chain.size, parts + 2 * DIGEST_BYTES, NULL, EVP_sha256(), NULL) == 1
    memcpy(parts + 3 * DIGEST_BYTES, &tls.verify, sizeof(uint32_t))
    memcpy(parts + 3 * DIGEST_BYTES + 4, &tls.min_version, sizeof(uint32_t))
    done = done and EVP_Digest(parts, sizeof(parts), parts, NULL, EVP_sha256(), NULL) == 1
    memcpy(hash, parts, sizeof(uint64_t))
    hash[0] |= 1
    return done


cdef bint fill_backend(const char* image, const ImageHeader* header, const ImageBackendTls* tls, TlsBackend* backend) noexcept nogil:
    cdef:
        SSL_CTX* context = SSL_CTX_new(TLS_method())
        X509_STORE* authorities
        TlsIdentity identity
        Material material
        bint done
    backend.context = context
    backend.verify = tls.verify
    backend.resume = tls.resume
    if context == NULL or not hash_settings(image, header, tls, &backend.settings):
        return False
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL if tls.resume else SSL_SESS_CACHE_OFF)
    if tls.resume:
        SSL_CTX_sess_set_new_cb(context, keep_session)
    else:
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET)
    done = SSL_CTX_set_min_proto_version(context, <int>tls.min_version) == 1 and SSL_CTX_set_max_proto_version(context, <int>tls.max_version) == 1 \
        and SSL_CTX_set_cipher_list(context, image + tls.ciphers.offset if tls.ciphers.size else CIPHERS) == 1 \
        and SSL_CTX_set_ciphersuites(context, image + tls.ciphersuites.offset if tls.ciphersuites.size else CIPHERSUITES) == 1 \
        and SSL_CTX_set1_groups_list(context, image + tls.groups.offset if tls.groups.size else GROUPS) == 1
    if done and tls.alpn.size != 0:
        done = SSL_CTX_set_alpn_protos(context, <const unsigned char*>(image + tls.alpn.offset), tls.alpn.size) == 0       # 0 = done
    if done and tls.verify:
        authorities = X509_STORE_new()
        done = authorities != NULL and add_bundle(authorities, image, &tls.authorities)
        if done:
            SSL_CTX_set1_cert_store(context, authorities)
        X509_STORE_free(authorities)
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL)
    if done and tls.certificate != <uint32_t>NO_INDEX:
        memset(&identity, 0, sizeof(identity))
        identity.context = context
        material.image = image
        material.header = header
        done = add_certificate(&material, &identity, tls.certificate)
        free(identity.ocsp[0])
    return done


cdef void free_backend(TlsBackend* backend) noexcept nogil:
    if backend != NULL:
        SSL_CTX_free(<SSL_CTX*>backend.context)
        free(backend)


cdef int compile_backends(const char* image, TlsSet* compiled) noexcept nogil:
    # As compile_tls, of how backends are spoken to.
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageBackendTls* tls = <const ImageBackendTls*>(image + header.backend_tls.offset)
        uint32_t i
    compiled.backends = <TlsBackend**>calloc(header.backend_tls.count + 1, sizeof(TlsBackend*))
    if compiled.backends == NULL:
        return ENOMEM
    compiled.n_backends = header.backend_tls.count
    for i in range(header.backend_tls.count):
        compiled.backends[i] = <TlsBackend*>calloc(1, sizeof(TlsBackend))
        if compiled.backends[i] == NULL:
            return ENOMEM
        if not fill_backend(image, header, &tls[i], compiled.backends[i]):
            return BAD_TLS
    return 0


cdef int compile_tls(const char* image, TlsSet* compiled) noexcept nogil:
    # Makes the contexts of a checked image, into an empty set: 0.2 ms for each certificate, which any thread may do before a snapshot is
    # loaded. 0, or with the set empty ENOMEM or BAD_TLS (compiled.why).
    cdef:
        const ImageHeader* header = <const ImageHeader*>image
        const ImageListener* listeners = <const ImageListener*>(image + header.listeners.offset)
        const ImageTls* tls = <const ImageTls*>(image + header.tls.offset)
        Material material
        uint32_t i
        int error
    compiled.why[0] = 0
    compiled.is_compiled = True
    if header.tls.count == 0 and header.backend_tls.count == 0:
        return 0
    compiled.listeners = <TlsListener**>calloc(header.tls.count + 1, sizeof(TlsListener*))
    if compiled.listeners == NULL:
        return ENOMEM
    compiled.n_listeners = header.tls.count
    ERR_clear_error()
    error = compile_backends(image, compiled)
    if error:
        note_error(compiled)
        free_tls(compiled)
        return error
    for i in range(header.listeners.count):
        if listeners[i].tls == <uint32_t>NO_INDEX or compiled.listeners[listeners[i].tls] != NULL:
            continue
        material.image = image
        material.header = header
        material.tls = &tls[listeners[i].tls]
        material.authorities = NULL
        material.names = NULL
        ERR_clear_error()
        error = make_listener(&material, &listeners[i], &compiled.listeners[listeners[i].tls])
        if error:
            note_error(compiled)
            free_tls(compiled)
            return error
    ERR_clear_error()
    return 0


cdef void note_error(TlsSet* compiled) noexcept nogil:
    ERR_error_string_n(ERR_peek_error(), compiled.why, sizeof(compiled.why))
    ERR_clear_error()


cdef void free_tls(TlsSet* compiled) noexcept nogil:
    cdef uint32_t i
    for i in range(compiled.n_backends):
        free_backend(compiled.backends[i])
    free(compiled.backends)
    compiled.backends = NULL
    compiled.n_backends = 0
    compiled.is_compiled = False
    for i in range(compiled.n_listeners):
        drop_tls(compiled.listeners[i])
    free(compiled.listeners)
    compiled.listeners = NULL
    compiled.n_listeners = 0


cdef int load_tls(Engine* engine, Snapshot* snapshot, TlsSet* compiled) noexcept nogil:
    # Takes over what was compiled of its image; an empty set is filled first. 0 or an error of compile_tls.
    cdef int error = 0
    if snapshot.header.tls.count == 0 and snapshot.header.backend_tls.count == 0:
        return 0
    if not compiled.is_compiled:
        error = compile_tls(snapshot.image, compiled)
    if error == 0 and not open_tls_scratch(&engine.tls):
        error = ENOMEM
    if error == 0:
        snapshot.tls = compiled.listeners
        snapshot.n_tls = compiled.n_listeners
        snapshot.backend_tls = compiled.backends
        snapshot.n_backend_tls = compiled.n_backends
        compiled.listeners = NULL
        compiled.n_listeners = 0
        compiled.backends = NULL
        compiled.n_backends = 0
        compiled.is_compiled = False
    return error


cdef void drop_tls_set(Snapshot* snapshot) noexcept nogil:
    cdef uint32_t i
    for i in range(snapshot.n_tls):
        drop_tls(snapshot.tls[i])
    free(snapshot.tls)
    snapshot.tls = NULL
    snapshot.n_tls = 0
    for i in range(snapshot.n_backend_tls):
        free_backend(snapshot.backend_tls[i])
    free(snapshot.backend_tls)
    snapshot.backend_tls = NULL
    snapshot.n_backend_tls = 0


cdef void set_listener_tls(TlsListener** held, const Snapshot* snapshot, uint32_t number) noexcept nogil:
    # What a listener holds from now on: that of its snapshot, none for NO_INDEX.
    cdef TlsListener* before = held[0]
    held[0] = NULL
    if number != <uint32_t>NO_INDEX:
        held[0] = snapshot.tls[number]
        held[0].references += 1
    drop_tls(before)


cdef bint open_tls_scratch(TlsScratch* scratch) noexcept nogil:
    if scratch.received != NULL:
        return True
    scratch.received = <char*>malloc(RECEIVE_BYTES)
    scratch.sending = <char*>malloc(SENDING_BYTES)
    scratch.record = <char*>malloc(RECORD_BYTES)
    if scratch.received != NULL and scratch.sending != NULL and scratch.record != NULL:
        return True
    free_tls_scratch(scratch)
    return False


cdef void free_tls_scratch(TlsScratch* scratch) noexcept nogil:
    free(scratch.received)
    free(scratch.sending)
    free(scratch.record)
    scratch.received = scratch.sending = scratch.record = NULL


cdef void close_tls_scratch(Engine* engine) noexcept nogil:
    free_tls_scratch(&engine.tls)


# ---------------------------------------------------------------------------------------------------------- bytes: between SSL and socket
cdef int bio_read(BIO* bio, char* data, int size) noexcept nogil:
    # What came before, then what one recv brings, if the call that runs may still make one.
    cdef:
        TlsConnection* tls = <TlsConnection*>BIO_get_data(bio)
        TlsScratch* scratch = &tls.engine.tls
        uint32_t n = <uint32_t>size
        ssize_t came
    BIO_clear_retry_flags(bio)
    if unlikely(tls.received != NULL):
        n = min(n, tls.received.end - tls.received.start)
        memcpy(data, tls.received.data + tls.received.start, n)
        tls.received.start += n
        if tls.received.start == tls.received.end:
            return_buffer(&tls.engine.buffers, tls.received)
            tls.received = NULL
        return <int>n
    if scratch.start == scratch.end:
        if not tls.may_receive or not tls.connection.io & IO_READABLE or tls.ended or tls.broken:
            if tls.ended or tls.broken:
                return 0 if tls.ended else -1
            BIO_set_retry_read(bio)
            return -1
        tls.may_receive = False
        came = tls.engine.plain.receive(tls.engine, tls.connection, scratch.received, RECEIVE_BYTES)
        if came <= 0:
            if came == IO_AGAIN:
                BIO_set_retry_read(bio)
                return -1
            tls.ended = came == 0
            tls.broken = came != 0
            return 0 if tls.ended else -1
        tls.silent_bytes += <uint32_t>came
        scratch.start = 0
        scratch.end = <uint32_t>came
    n = min(n, scratch.end - scratch.start)
    memcpy(data, scratch.received + scratch.start, n)
    scratch.start += n
    return <int>n


cdef int bio_write(BIO* bio, const char* data, int size) noexcept nogil:
    # Collects records; `flush` sends them.
    cdef:
        TlsConnection* tls = <TlsConnection*>BIO_get_data(bio)
        TlsScratch* scratch = &tls.engine.tls
    BIO_clear_retry_flags(bio)
    if <uint32_t>size > SENDING_BYTES - scratch.n_sending:
        tls.broken = True                       # a flight that large comes of no certificate chain that makes sense
        return -1
    memcpy(scratch.sending + scratch.n_sending, data, <size_t>size)
    scratch.n_sending += <uint32_t>size
    return size


cdef long bio_ctrl(BIO* bio, int command, long number, void* pointer) noexcept nogil:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef bint flush(Engine* engine, Connection* connection) noexcept nogil:
    # Sends what was collected; what the socket does not take is held. False: the socket failed, or too much waits for it.
    cdef:
        TlsConnection* tls = connection.tls
        TlsScratch* scratch = &engine.tls
        uint32_t size = scratch.n_sending
        ssize_t n = 0
    scratch.n_sending = 0
    if size == 0:
        return not tls.broken
    if unlikely(tls.holds_back):
        tls.holds_back = False
        if not append_bytes(&engine.buffers, &tls.held, scratch.sending, size):
            tls.broken = True
        else:
            flush_held(engine, connection)
        return not tls.broken
    if likely(tls.held == NULL and connection.io & IO_WRITABLE):
        n = engine.plain.send(engine, connection, scratch.sending, size)
        if likely(n == <ssize_t>size):
            return not tls.broken
        if n < 0 and n != IO_AGAIN:
            tls.broken = True
            return False
        n = max(n, 0)
    elif tls.held != NULL and tls.held.end - tls.held.start + size > MAX_HELD_BYTES:
        tls.broken = True
        return False
    if not append_bytes(&engine.buffers, &tls.held, scratch.sending + n, size - <uint32_t>n):
        tls.broken = True
    return not tls.broken


cdef bint flush_held(Engine* engine, Connection* connection) noexcept nogil:
    # Sends what is held, unless that waits for `flush`. False: some of it is still there, or the socket failed (tls.broken).
    cdef:
        TlsConnection* tls = connection.tls
        ssize_t n
    if likely(tls.held == NULL) or tls.holds_back:
        return True
    if not connection.io & IO_WRITABLE:
        return False
    n = engine.plain.send(engine, connection, tls.held.data + tls.held.start, tls.held.end - tls.held.start)
    if n < 0:
        tls.broken = n != IO_AGAIN
        return False
    tls.held.start += <uint32_t>n
    if tls.held.start < tls.held.end:
        return False
    return_buffer(&engine.buffers, tls.held)
    tls.held = NULL
    return True


cdef ssize_t send_held(Engine* engine, Connection* connection) noexcept nogil:
    # As flush_held, of a connection where something is held: 1, it has gone; IO_AGAIN; IO_CLOSED; or 0, some of it has. That is progress which the
    # exchange cannot see, because all of these bytes count as sent: the time for the other side to read starts anew.
    cdef:
        TlsConnection* tls = connection.tls
        Exchange* exchange = connection.exchange
        uint32_t held = tls.held.end - tls.held.start
    if flush_held(engine, connection):
        return 1
    if tls.broken:
        return IO_CLOSED
    if tls.held.end - tls.held.start == held:
        return IO_AGAIN
    if exchange != NULL and exchange.flags & X_TUNNEL:
        exchange.client.wait = WAIT_UNSET
    elif connection.wait == WAIT_WRITE:
        connection.wait = WAIT_UNSET
    return 0


cdef void keep_received(Engine* engine, Connection* connection) noexcept nogil:
    # What one recv brought and nobody has asked for yet waits with the connection, which is readable meanwhile.
    cdef:
        TlsConnection* tls = connection.tls
        TlsScratch* scratch = &engine.tls
    if unlikely(scratch.start < scratch.end):
        if not append_bytes(&engine.buffers, &tls.received, scratch.received + scratch.start, scratch.end - scratch.start):
            tls.broken = True
        connection.io |= IO_READABLE
    scratch.start = scratch.end = 0


# ---------------------------------------------------------------------------------------------------------- the transport
cdef inline bint is_session(const Connection* connection) noexcept nogil:
    return connection.exchange != NULL and connection.exchange.flags & X_SESSION != 0


cdef ssize_t tls_receive(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    # As plain_receive. The end of the stream is the other side's close_notify; of a client that speaks HTTP its bare FIN too, which is how many
    # end: HTTP says by itself where it ends. Of a TCP session nobody else would know that it was cut.
    cdef:
        TlsConnection* tls = connection.tls
        TlsScratch* scratch = &engine.tls
        SSL* ssl = <SSL*>tls.ssl
        size_t got = 0, n = 0
        uint32_t n_records = 0
        int result, error
        ssize_t outcome = IO_AGAIN
        bint was_kept = tls.received != NULL    # so whether the socket has more is not known
    if unlikely(connection.io & IO_PUT_OFF):
        connection.io &= ~<uint32_t>IO_PUT_OFF
        list_ready(engine, connection)          # behind the others: its records are small
        return IO_AGAIN
    tls.may_receive = True
    clear_errors()
    while True:
        result = SSL_read_ex(ssl, data + got, size - got, &n)
        if likely(result == 1):
            got += n
            tls.silent_bytes = 0
            if unlikely(got == size):
                connection.io |= IO_READABLE
                break
            n_records += 1
            if unlikely(n_records == MAX_RECORDS):
                connection.io |= IO_READABLE | IO_PUT_OFF
                break
            if likely(scratch.start == scratch.end and tls.received == NULL and SSL_pending(ssl) == 0):
                if likely(not was_kept):
                    break
                was_kept = False
            continue
        error = SSL_get_error(ssl, result)
        clear_errors()
        if error == SSL_ERROR_WANT_READ and unlikely(tls.silent_bytes > MAX_SILENT_BYTES):
            tls.broken = True                   # it would keep us busy for ever, at one call or at many
        elif error == SSL_ERROR_WANT_READ:
            if got != 0 or not connection.io & IO_READABLE:
                break
            tls.may_receive = True              # a full recv without a whole record, or with none that carries data
            continue
        if got != 0:
            connection.io |= IO_READABLE        # it is told the next time
            break
        connection.io &= ~<uint32_t>IO_READABLE
        if error == SSL_ERROR_ZERO_RETURN or (tls.ended and not tls.broken and connection.kind == KIND_CLIENT and not is_session(connection)):
            connection.io |= IO_EOF
            outcome = 0
        else:
            engine.last_errno = EPROTO
            outcome = IO_CLOSED
        break
    keep_received(engine, connection)
    if unlikely(engine.tls.n_sending != 0):     # an alert, an answer to KeyUpdate
        # TLS 1.2, and no failure: a warning (SSL_OP_NO_RENEGOTIATION), as it is sent for nothing else.
        engine.counters.tls_renegotiations += outcome == IO_AGAIN and SSL_version(ssl) != TLS1_3_VERSION
        if not flush(engine, connection) and got == 0:
            return IO_CLOSED
    return <ssize_t>got if got != 0 else outcome


cdef inline bint are_last_words(const Connection* connection) noexcept nogil:
    # Whether what is sent now is the end of an answer that ends its connection: close_notify goes along with it. What comes through a tunnel
    # may have been cut, which is not known here.
    cdef const Exchange* exchange = connection.exchange
    return connection.kind == KIND_CLIENT and exchange != NULL and not exchange.flags & (X_KEEP_ALIVE | X_TUNNEL) \
        and exchange.down.source_ended and exchange.down.state == RELAY_RUNNING


cdef inline ssize_t send_records(Engine* engine, Connection* connection, const char** parts, const size_t* sizes, int n_parts,
                                 bint early) noexcept nogil:
    # As plain_send_parts: parts are put together so that records are full, and leave by at most SEND_BYTES in one send. `early`: before hands
    # are shaken. 0: some of what was held before has gone, and nothing of this.
    cdef:
        TlsConnection* tls = connection.tls
        const char* data
        size_t in_part = 0, size, filled, taken = 0, batch = 0, n = 0
        ssize_t sent
        int part = 0, result
    if unlikely(tls.held != NULL):
        sent = send_held(engine, connection)
        if sent <= 0:
            return sent
    if unlikely(tls.byte_taken):
        tls.byte_taken = False
        taken = in_part = 1                     # no part is empty where something waits
    clear_errors()
    while True:
        while part < n_parts and in_part == sizes[part]:
            part += 1
            in_part = 0
        if part == n_parts or batch == SEND_BYTES:
            if part == n_parts and not early and unlikely(are_last_words(connection)):
                put_goodbye(tls)
            if not flush(engine, connection):
                engine.last_errno = EPROTO
                return IO_CLOSED
            if unlikely(tls.held != NULL):
                tls.byte_taken = True
                taken -= 1
                return <ssize_t>taken if taken != 0 else IO_AGAIN
            if part == n_parts:
                return <ssize_t>taken
            batch = 0
        data = parts[part] + in_part
        size = sizes[part] - in_part
        if size >= RECORD_BYTES or part == n_parts - 1:
            size = min(size, <size_t>RECORD_BYTES)
            in_part += size
        else:
            filled = 0
            while part < n_parts and filled < RECORD_BYTES:
                size = min(sizes[part] - in_part, <size_t>RECORD_BYTES - filled)
                memcpy(engine.tls.record + filled, parts[part] + in_part, size)
                filled += size
                in_part += size
                if in_part == sizes[part]:
                    part += 1
                    in_part = 0
            data = engine.tls.record
            size = filled
            if part == n_parts:
                part -= 1                       # all of it is in this record
                in_part = sizes[part]
        if early:
            result = SSL_write_early_data(<SSL*>tls.ssl, data, size, &n)
        else:
            result = SSL_write_ex(<SSL*>tls.ssl, data, size, &n)
        if unlikely(result != 1 or n != size):
            ERR_clear_error()
            engine.tls.n_sending = 0
            engine.last_errno = EPROTO
            return IO_CLOSED
        taken += size
        batch += size


cdef ssize_t tls_send_parts(Engine* engine, Connection* connection, const char** parts, const size_t* sizes, int n_parts) noexcept nogil:
    return send_records(engine, connection, parts, sizes, n_parts, False)


cdef ssize_t tls_send(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    return tls_send_parts(engine, connection, &data, &size, 1)


cdef void put_goodbye(TlsConnection* tls) noexcept nogil:
    if not tls.said_goodbye:
        tls.said_goodbye = True
        SSL_shutdown(<SSL*>tls.ssl)
        clear_errors()


cdef void say_goodbye(Engine* engine, Connection* connection) noexcept nogil:
    # close_notify, as far as the socket takes it: what follows is the end of the stream and no cut.
    cdef TlsConnection* tls = connection.tls
    if tls.stands and not tls.broken and (tls.held == NULL or tls.holds_back) and not connection.io & (IO_WRITE_CLOSED | IO_ERROR):
        put_goodbye(tls)
        flush(engine, connection)


cdef int tls_shut_write(Engine* engine, Connection* connection) noexcept nogil:
    # In a tunnel the end of the stream waits until close_notify is with the socket: without one it would look cut. IO_AGAIN, and nothing is shut:
    # there is no room for it yet.
    cdef:
        const TlsConnection* tls = connection.tls
        const Exchange* exchange = connection.exchange
    flush_held(engine, connection)
    say_goodbye(engine, connection)
    if unlikely(tls.held != NULL and not tls.broken) and exchange != NULL and exchange.flags & X_TUNNEL:
        return IO_AGAIN
    return engine.plain.shut_write(engine, connection)


cdef void close_tls(Engine* engine, Connection* connection, bint reset) noexcept nogil:
    # Frees what the connection keeps for TLS.
    cdef TlsConnection* tls = connection.tls
    if tls == NULL:
        return
    if not reset:
        say_goodbye(engine, connection)
    SSL_set_shutdown(<SSL*>tls.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)      # else its session counts as broken
    SSL_free(<SSL*>tls.ssl)
    return_buffer(&engine.buffers, tls.received)
    return_buffer(&engine.buffers, tls.held)
    return_buffer(&engine.buffers, tls.early)
    drop_tls(tls.listener)
    free(tls.facts)
    free(tls)
    connection.tls = NULL
    engine.counters.tls_closed += 1


cdef Transport TLS
TLS.receive = tls_receive
TLS.send = tls_send
TLS.send_parts = tls_send_parts
TLS.shut_write = tls_shut_write
TLS.can_splice = False
TLS.close = close_tls


cdef ssize_t early_receive(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    # Brings the handshake on. Early data is given away once hands are shaken, or as it comes (passes_early), and then the connection is one as
    # any other: no call returns bytes of both kinds.
    cdef:
        TlsConnection* tls = connection.tls
        uint32_t n
        int result
    if not tls.stands:
        result = shake_hands(engine, connection)
        if result < 0:
            connection.io &= ~<uint32_t>IO_READABLE
            engine.last_errno = EPROTO
            return IO_CLOSED
    if tls.early != NULL and (tls.stands or tls.passes_early):
        n = min(<uint32_t>size, tls.early.end - tls.early.start)
        memcpy(data, tls.early.data + tls.early.start, n)
        tls.early.start += n
        if tls.early.start == tls.early.end:
            return_buffer(&engine.buffers, tls.early)
            tls.early = NULL
        connection.io |= IO_READABLE
        return n
    if tls.stands:
        connection.transport = &TLS
        connection.io |= IO_READABLE
    if connection.io & IO_READABLE and tls.held == NULL:
        list_ready(engine, connection)          # what came behind it, or its end
    return IO_AGAIN


cdef ssize_t early_send_parts(Engine* engine, Connection* connection, const char** parts, const size_t* sizes, int n_parts) noexcept nogil:
    if connection.tls.stands:
        return send_records(engine, connection, parts, sizes, n_parts, False)
    return send_records(engine, connection, parts, sizes, n_parts, True)


cdef ssize_t early_send(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    return early_send_parts(engine, connection, &data, &size, 1)


cdef int early_shut_write(Engine* engine, Connection* connection) noexcept nogil:
    # With a goodbye, if the end of the handshake has just come.
    if not connection.tls.stands and connection.io & IO_READABLE:
        shake_hands(engine, connection)
    return tls_shut_write(engine, connection)


cdef Transport EARLY
EARLY.receive = early_receive
EARLY.send = early_send
EARLY.send_parts = early_send_parts
EARLY.shut_write = early_shut_write
EARLY.can_splice = False
EARLY.close = close_tls


cdef void carry_early_data(Connection* client) noexcept nogil:
    # HTTP begins with a client that has sent early data.
    client.transport = &EARLY


# ---------------------------------------------------------------------------------------------------------- handshakes
cdef TlsConnection* open_tls(Engine* engine, Connection* connection, SSL_CTX* context) noexcept nogil:
    # Gives a connection its SSL, and its transport with it. NULL: out of memory.
    cdef:
        TlsConnection* tls = <TlsConnection*>calloc(1, sizeof(TlsConnection))
        SSL* ssl = SSL_new(context)
        BIO* bio = BIO_new(METHOD)
    if tls == NULL or ssl == NULL or bio == NULL or SSL_set_app_data(ssl, tls) != 1:
        ERR_clear_error()
        free(tls)
        SSL_free(ssl)
        BIO_free(bio)
        return NULL
    BIO_set_init(bio, 1)
    BIO_set_data(bio, tls)
    SSL_set_bio(ssl, bio, bio)                  # owned by ssl now
    tls.ssl = ssl
    tls.engine = engine
    tls.connection = connection
    connection.tls = tls
    connection.transport = &TLS
    engine.counters.tls_opened += 1
    return tls


cdef bint looks_like_http(const char* data, uint32_t size) noexcept nogil:
    # The start of a method: no record of TLS begins with a letter.
    cdef uint32_t i
    for i in range(min(size, <uint32_t>3)):
        if not c"A" <= data[i] <= c"Z":
            return False
    return True


cdef uint32_t handshake_failure(const TlsConnection* tls) noexcept nogil:
    # What a handshake that has failed died of.
    cdef:
        int reason = ERR_GET_REASON(ERR_peek_error())
    if tls.failure:
        return tls.failure
    if reason == SSL_R_NO_SHARED_CIPHER or reason == SSL_R_UNSUPPORTED_PROTOCOL or reason == SSL_R_NO_SHARED_GROUPS \
            or reason == SSL_R_NO_SUITABLE_KEY_SHARE or reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM \
            or reason == SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS or reason == SSL_R_NO_APPLICATION_PROTOCOL or reason == SSL_R_VERSION_TOO_LOW:
        return FAILURE_TLS_NO_SHARED_CIPHER
    if reason == SSL_R_CERTIFICATE_VERIFY_FAILED or reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return FAILURE_TLS_CLIENT_CERTIFICATE
    if reason > SSL_AD_REASON_OFFSET:
        return FAILURE_TLS_ALERT
    if tls.ended or tls.broken:
        return FAILURE_TLS_CLOSED
    return FAILURE_TLS_PROTOCOL


cdef bint read_early_data(Engine* engine, TlsConnection* tls) noexcept nogil:
    # Puts what comes of it to tls.early. True: there is no more, and the handshake goes on as any other.
    cdef:
        size_t n = 0
        int result
    while True:
        result = SSL_read_early_data(<SSL*>tls.ssl, engine.tls.record, RECORD_BYTES, &n)
        if result == SSL_READ_EARLY_DATA_FINISH:
            tls.takes_early = False
            result = SSL_get_early_data_status(<SSL*>tls.ssl)
            engine.counters.tls_early_accepted += result == SSL_EARLY_DATA_ACCEPTED
            engine.counters.tls_early_refused += result == SSL_EARLY_DATA_REJECTED
            return True
        if result != SSL_READ_EARLY_DATA_SUCCESS:
            return False                        # as of a handshake: it waits, or has failed
        if not append_bytes(&engine.buffers, &tls.early, engine.tls.record, <uint32_t>n):
            tls.failure = FAILURE_OUT_OF_MEMORY
            return False


cdef bint hold_back_session(Engine* engine, TlsConnection* tls) noexcept nogil:
    # All that is sent at the end of a TLS 1.3 handshake is a session. Where the request is here by then, it goes in one send with the answer.
    # Where not, it goes at once: a client without TCP_NODELAY holds its request back until the end of its handshake is acknowledged, which
    # else takes 40 ms. False: out of memory.
    cdef uint32_t size = engine.tls.n_sending
    if size == 0 or size > MAX_TICKET_BYTES or tls.held != NULL or tls.early != NULL or SSL_version(<SSL*>tls.ssl) != TLS1_3_VERSION:
        return True
    engine.tls.n_sending = 0
    tls.holds_back = True
    return append_bytes(&engine.buffers, &tls.held, engine.tls.sending, size)


cdef int shake_hands(Engine* engine, Connection* client) noexcept nogil:
    # Brings a client's handshake on, with one recv at most, until it stands: TLS_STANDS; TLS_WAITS; TLS_CAME_EARLY; TLS_SAW_HTTP; or -FAILURE_*,
    # with an alert sent where one is due.
    cdef:
        TlsConnection* tls = client.tls
        TlsScratch* scratch = &engine.tls
        ssize_t n
        int result, error, outcome
    if tls == NULL:
        # Its first bytes: until they come, a client costs no SSL.
        n = engine.plain.receive(engine, client, scratch.received, RECEIVE_BYTES)
        if n <= 0:
            return TLS_WAITS if n == IO_AGAIN else -<int>FAILURE_TLS_CLOSED
        scratch.start = 0
        scratch.end = <uint32_t>n
        if unlikely(looks_like_http(scratch.received, scratch.end)):
            return TLS_SAW_HTTP
        tls = open_tls(engine, client, <SSL_CTX*>client.listener.tls.context)
        if tls == NULL:
            scratch.start = scratch.end = 0
            return -<int>FAILURE_OUT_OF_MEMORY
        tls.listener = client.listener.tls
        tls.listener.references += 1
        tls.takes_early = tls.listener.takes_early
        SSL_set_accept_state(<SSL*>tls.ssl)
    tls.may_receive = scratch.start == scratch.end
    if not flush_held(engine, client):
        return -<int>FAILURE_TLS_CLOSED if tls.broken else TLS_WAITS
    clear_errors()
    result = 0
    if likely(not tls.takes_early) or read_early_data(engine, tls):
        result = SSL_do_handshake(<SSL*>tls.ssl)
    if result == 1:
        outcome = TLS_STANDS
        if unlikely(tls.listener.client_auth == CLIENT_AUTH_REQUIRED and not tls.is_challenge
                    and SSL_get0_peer_certificate(<SSL*>tls.ssl) == NULL):
            outcome = -<int>FAILURE_TLS_CLIENT_CERTIFICATE      # OpenSSL has seen to it; whatever may have misled it ends here
            engine.tls.n_sending = 0
    else:
        error = SSL_get_error(<SSL*>tls.ssl, result)
        outcome = TLS_WAITS if error == SSL_ERROR_WANT_READ else -<int>handshake_failure(tls)
        clear_errors()
    keep_received(engine, client)
    if outcome == TLS_STANDS and tls.received != NULL and not hold_back_session(engine, tls):
        return -<int>FAILURE_OUT_OF_MEMORY
    if not flush(engine, client) and outcome >= 0:
        return -<int>FAILURE_TLS_CLOSED
    if tls.held != NULL and outcome == TLS_STANDS and not tls.holds_back:
        return TLS_WAITS                        # the client cannot go on without it; SSL_do_handshake says the same again
    if outcome == TLS_STANDS:
        tls.stands = True
        tls.silent_bytes = 0
        engine.counters.tls_handshakes += 1
        engine.counters.tls_resumed += SSL_session_reused(<SSL*>tls.ssl) != 0
        client.peer.exchange_flags |= X_CAME_BY_TLS
        drop_tls(tls.listener)
        tls.listener = NULL
    elif unlikely(tls.early != NULL) and outcome == TLS_WAITS and not tls.early_waits:
        return TLS_CAME_EARLY
    return outcome


# ---------------------------------------------------------------------------------------------------------- handshakes with backends
cdef bint expect_name(SSL* ssl, const Snapshot* snapshot, const ImageBackendTls* tls, const ImageBackend* backend, bint verify) noexcept nogil:
    # Whom the backend has to be: the pool's name for all, its own, or its address; a name is sent as SNI too. A unix socket without a name is
    # nobody.
    cdef:
        const ImageText* name = &tls.server_name if tls.server_name.size else &backend.tls_name
        const char* text = snapshot.image + name.offset
        const sockaddr* address = <const sockaddr*>backend.address
        X509_VERIFY_PARAM* parameters = SSL_get0_param(ssl)
    if name.size:
        if X509_VERIFY_PARAM_set1_ip_asc(parameters, text) == 1:
            return True
        ERR_clear_error()                       # no address: a host
        if SSL_set_tlsext_host_name(ssl, text) != 1:
            return False
        X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT)
        return X509_VERIFY_PARAM_set1_host(parameters, text, 0) == 1
    if not verify:
        return True
    if address.sa_family == AF_INET:
        return X509_VERIFY_PARAM_set1_ip(parameters, <const unsigned char*>&(<const sockaddr_in*>address).sin_addr, 4) == 1
    if address.sa_family == AF_INET6:
        return X509_VERIFY_PARAM_set1_ip(parameters, <const unsigned char*>&(<const sockaddr_in6*>address).sin6_addr, 16) == 1
    return False


cdef bint open_backend_tls(Engine* engine, Connection* connection, const Snapshot* snapshot, const Pool* pool, uint32_t pick) noexcept nogil:
    # Prepares a connection that is being made to speak TLS as its pool says. False: out of memory, or nobody it could be verified to be.
    cdef:
        TlsBackend* settings = pool.tls
        const ImageBackendTls* image = <const ImageBackendTls*>(snapshot.image + snapshot.header.backend_tls.offset) + pool.image.tls
        const ImageBackend* backend = <const ImageBackend*>(snapshot.image + snapshot.header.backends.offset) + pool.image.backends.offset + pick
        TlsConnection* tls = open_tls(engine, connection, <SSL_CTX*>settings.context)
        SSL* ssl
    if tls == NULL:
        return False
    ssl = <SSL*>tls.ssl
    tls.settings = settings.settings
    SSL_set_connect_state(ssl)
    clear_errors()
    if not expect_name(ssl, snapshot, image, backend, settings.verify):
        ERR_clear_error()
        return False
    if settings.resume and connection.backend.tls_session != NULL and connection.backend.tls_session_settings == settings.settings:
        SSL_set_session(ssl, <SSL_SESSION*>connection.backend.tls_session)
    return True


cdef bint offer_http1(Connection* connection) noexcept nogil:
    # Of what its pool would offer to a backend by ALPN, this connection offers HTTP/1.1 alone. False: out of memory.
    return SSL_set_alpn_protos(<SSL*>connection.tls.ssl, <const unsigned char*><const char*>b"\x08http/1.1", 9) == 0    # 0 = done


cdef bint digest_sha1(const char* data, size_t size, unsigned char* digest) noexcept nogil:
    # 20 octets, which prove nothing: a WebSocket's handshake wants them (RFC 6455).
    return EVP_Digest(data, size, digest, NULL, EVP_sha1(), NULL) == 1


cdef int greet_backend(Engine* engine, Connection* connection) noexcept nogil:
    # Brings the handshake with a backend on, whose TCP connection stands: TLS_STANDS, TLS_WAITS or -FAILURE_*.
    cdef:
        TlsConnection* tls = connection.tls
        int result, reason, outcome
    if not flush_held(engine, connection):
        return -<int>FAILURE_BACKEND_TLS if tls.broken else TLS_WAITS
    tls.may_receive = True
    ERR_clear_error()
    result = SSL_do_handshake(<SSL*>tls.ssl)
    outcome = TLS_STANDS
    if result != 1:
        outcome = TLS_WAITS
        if SSL_get_error(<SSL*>tls.ssl, result) != SSL_ERROR_WANT_READ:
            reason = ERR_GET_REASON(ERR_peek_error())
            outcome = -<int>FAILURE_BACKEND_CERTIFICATE if reason == SSL_R_CERTIFICATE_VERIFY_FAILED else -<int>FAILURE_BACKEND_TLS
            drop_tls_session(connection.backend)        # perhaps it was that
        ERR_clear_error()
    keep_received(engine, connection)
    if not flush(engine, connection) and outcome >= 0:
        return -<int>FAILURE_BACKEND_TLS
    if outcome == TLS_STANDS:
        tls.silent_bytes = 0
        tls.stands = True                       # what is held goes before the request
    return outcome


# ---------------------------------------------------------------------------------------------------------- facts
cdef void put_bio(TlsFacts* facts, uint32_t* at, uint32_t fact, BIO* bio) noexcept nogil:
    # What was written to `bio`, which is freed, as far as there is room.
    cdef:
        char* data = NULL
        long size
    if bio == NULL:
        return
    size = BIO_get_mem_data(bio, &data)
    if size > 0:
        put_fact(facts, at, fact, data, <uint32_t>size)
    BIO_free(bio)


cdef void put_fact(TlsFacts* facts, uint32_t* at, uint32_t fact, const char* data, uint32_t size) noexcept nogil:
    size = min(size, <uint32_t>MAX_FACT_BYTES)
    size = min(size, <uint32_t>sizeof(facts.text) - at[0])
    facts.start[fact] = at[0]
    facts.size[fact] = size
    memcpy(facts.text + at[0], data, size)
    at[0] += size


cdef void put_text(TlsFacts* facts, uint32_t* at, uint32_t fact, const char* text) noexcept nogil:
    if text != NULL:
        put_fact(facts, at, fact, text, <uint32_t>strlen(text))


cdef BIO* print_name(const X509_NAME* name) noexcept nogil:
    cdef BIO* bio = BIO_new(BIO_s_mem())
    if bio != NULL:
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253)      # control and other characters are escaped
    return bio


cdef void put_certificate(TlsFacts* facts, uint32_t* at, const SSL* ssl, const X509* certificate) noexcept nogil:
    cdef:
        unsigned char digest[DIGEST_BYTES]
        char hexadecimal[2 * DIGEST_BYTES]
        const char* digits = b"0123456789abcdef"
        unsigned int size = 0
        BIGNUM* number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL)
        char* text
        long result = SSL_get_verify_result(ssl)
        BIO* bio
        uint32_t i
    put_bio(facts, at, TLS_CLIENT_SUBJECT, print_name(X509_get_subject_name(certificate)))
    put_bio(facts, at, TLS_CLIENT_ISSUER, print_name(X509_get_issuer_name(certificate)))
    if number != NULL:
        text = BN_bn2hex(number)
        put_text(facts, at, TLS_CLIENT_SERIAL, text)
        OPENSSL_free(text)
        BN_free(number)
    if X509_digest(certificate, EVP_sha256(), digest, &size) == 1 and size == DIGEST_BYTES:
        for i in range(DIGEST_BYTES):
            hexadecimal[2 * i] = digits[digest[i] >> 4]
            hexadecimal[2 * i + 1] = digits[digest[i] & 15]
        put_fact(facts, at, TLS_CLIENT_FINGERPRINT, hexadecimal, sizeof(hexadecimal))
    if result == X509_V_OK:
        put_text(facts, at, TLS_CLIENT_VERIFY, b"SUCCESS")
        return
    bio = BIO_new(BIO_s_mem())
    if bio != NULL:
        BIO_puts(bio, b"FAILED:")
        BIO_puts(bio, X509_verify_cert_error_string(result))
    put_bio(facts, at, TLS_CLIENT_VERIFY, bio)


cdef TlsFacts* make_facts(const SSL* ssl) noexcept nogil:
    # Owned by the caller; NULL: out of memory.
    cdef:
        TlsFacts facts
        TlsFacts* made
        uint32_t at = 0
        const X509* certificate = SSL_get0_peer_certificate(ssl)
        size_t size
    memset(&facts, 0, sizeof(facts))
    put_text(&facts, &at, TLS_VERSION, SSL_get_version(ssl))
    put_text(&facts, &at, TLS_CIPHER, SSL_CIPHER_get_name(SSL_get_current_cipher(ssl)))
    put_text(&facts, &at, TLS_SERVER_NAME, SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name))
    put_text(&facts, &at, TLS_RESUMED, b"yes" if SSL_session_reused(ssl) else b"no")
    if certificate != NULL:
        put_certificate(&facts, &at, ssl, certificate)
    else:
        put_text(&facts, &at, TLS_CLIENT_VERIFY, b"NONE")
    ERR_clear_error()
    size = sizeof(TlsFacts) - sizeof(facts.text) + at
    made = <TlsFacts*>malloc(size)
    if made != NULL:
        memcpy(made, &facts, size)
    return made


cdef uint32_t agreed_protocol(const Connection* client, const char** protocol) noexcept nogil:
    # The size of the protocol that it and we have agreed on (ALPN), up to 255, and where it stands; 0: there is none, or no TLS. Valid until the
    # connection closes.
    cdef unsigned int size = 0
    if client.tls != NULL:
        SSL_get0_alpn_selected(<SSL*>client.tls.ssl, <const unsigned char**>protocol, &size)
    return size


cdef bint chose_http2(const Connection* client) noexcept nogil:
    # Whether it and we have agreed on HTTP/2.
    cdef const char* protocol = NULL
    return agreed_protocol(client, &protocol) == 2 and protocol[0] == c"h" and protocol[1] == c"2"


cdef uint32_t tls_fact(Connection* client, uint32_t fact, const char** text) noexcept nogil:
    # The size of a TlsFact of this client, and where it stands; 0: there is none. Valid until the connection closes.
    cdef TlsConnection* tls = client.tls
    if tls == NULL:
        return 0
    if tls.facts == NULL:
        tls.facts = make_facts(<SSL*>tls.ssl)
        if tls.facts == NULL:
            return 0
    text[0] = tls.facts.text + tls.facts.start[fact]
    return tls.facts.size[fact]


cdef int _make_method() except -1:  # with the GIL: runs once, at import
    global METHOD, TICKET_CIPHER, HAS_OWN_MEMORY
    # Before anything is allocated. Who has loaded the same library earlier (Python's ssl, where fastlb is a part of something else) has settled
    # it: then it is malloc.
    HAS_OWN_MEMORY = not WATCHES_MEMORY and CRYPTO_set_mem_functions(take_memory, resize_memory, return_memory) == 1
    METHOD = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fastlb")
    if METHOD == NULL or BIO_meth_set_read(METHOD, bio_read) != 1 or BIO_meth_set_write(METHOD, bio_write) != 1 \
            or BIO_meth_set_ctrl(METHOD, bio_ctrl) != 1:
        raise MemoryError
    TICKET_CIPHER = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL)
    if TICKET_CIPHER == NULL:
        raise ImportError("this OpenSSL has no AES-256-CBC")
    return 0


HAS_OWN_MEMORY = False              # whether OpenSSL's memory is tls_memory's
_make_method()
