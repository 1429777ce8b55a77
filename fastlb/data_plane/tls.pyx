"""TLS through OpenSSL: what an image says of it, compiled to contexts; and the Transport over it.

A TlsListener is compiled once for a snapshot, in any thread, and never changes; contexts that connections use stay as long as those. A connection's
SSL never sees a socket: its BIO takes bytes from what one recv of the event has brought, and collects records for one send. Between two calls of the
transport the worker's scratch (Engine.tls) is empty; what a caller had no room for waits in TlsConnection.received, what the socket had no room for
in TlsConnection.held.

This is the one module that OpenSSL is linked into. So what can be read by itself is in files that make no module of their own: tls_material.pxd
(certificates and keys out of an image), tls_callbacks.pxd (what OpenSSL asks within a handshake), tls_bytes.pxd (between an SSL and its socket),
tls_facts.pxd (what is told of a client).

The Transport's promises are those of `transport`, so nobody above knows of records:
- A short read means that all was used. After a read that fills its buffer, IO_READABLE stays set.
- Where the socket does not take all records of a send, the last byte of what they carry is said not to have been taken. So the caller waits for
  IO_WRITABLE and sends again from that byte on; the records that wait go first then, and the byte, which they hold, is not encrypted again.
  Nobody else has to flush anything.

OpenSSL's queue of errors belongs to the thread, and others use it too: it is empty before each call that may fail, and after each that has.
"""
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.buffer cimport append_bytes, return_buffer
from fastlb.data_plane.failure cimport (FAILURE_BACKEND_CERTIFICATE, FAILURE_BACKEND_TLS, FAILURE_OUT_OF_MEMORY, FAILURE_TLS_ALERT,
                                        FAILURE_TLS_CLIENT_CERTIFICATE, FAILURE_TLS_CLOSED, FAILURE_TLS_NO_SHARED_CIPHER,
                                        FAILURE_TLS_PROTOCOL)
from fastlb.data_plane.openssl cimport (BIO, BIO_METHOD, BIO_TYPE_SOURCE_SINK, ERR_GET_REASON, EVP_CIPHER, EVP_CIPHER_CTX, EVP_MAC_CTX,
                                        OPENSSL_VERSION, SSL, SSL_AD_REASON_OFFSET, SSL_CTX, SSL_EARLY_DATA_ACCEPTED,
                                        SSL_EARLY_DATA_REJECTED, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN,
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_RELEASE_BUFFERS, SSL_OP_CIPHER_SERVER_PREFERENCE,
                                        SSL_OP_NO_ANTI_REPLAY, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_TICKET,
                                        SSL_OP_PRIORITIZE_CHACHA, SSL_READ_EARLY_DATA_FINISH, SSL_READ_EARLY_DATA_SUCCESS,
                                        SSL_RECEIVED_SHUTDOWN, SSL_R_CERTIFICATE_VERIFY_FAILED, SSL_R_NO_APPLICATION_PROTOCOL,
                                        SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS,
                                        SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM,
                                        SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_VERSION_TOO_LOW,
                                        SSL_SENT_SHUTDOWN, SSL_SESSION, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL,
                                        SSL_SESS_CACHE_OFF, SSL_VERIFY_FAIL_IF_NO_PEER_CERT, SSL_VERIFY_PEER, TLS1_3_VERSION,
                                        X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_NAME_STACK,
                                        X509_STORE, X509_VERIFY_PARAM, BIO_free, BIO_get_new_index, BIO_meth_new, BIO_meth_set_ctrl,
                                        BIO_meth_set_read, BIO_meth_set_write, BIO_new, BIO_set_data, BIO_set_init,
                                        CRYPTO_set_mem_functions, ERR_clear_error, ERR_error_string_n, ERR_peek_error, EVP_CIPHER_fetch,
                                        EVP_DecryptInit_ex2, EVP_Digest, EVP_EncryptInit_ex2, EVP_sha1, OpenSSL_version, RAND_bytes,
                                        SSL_CTX_free, SSL_CTX_new, SSL_CTX_sess_set_new_cb, SSL_CTX_set1_cert_store,
                                        SSL_CTX_set1_groups_list, SSL_CTX_set_alpn_protos, SSL_CTX_set_alpn_select_cb,
                                        SSL_CTX_set_app_data, SSL_CTX_set_cipher_list, SSL_CTX_set_ciphersuites,
                                        SSL_CTX_set_client_CA_list, SSL_CTX_set_client_hello_cb, SSL_CTX_set_max_early_data,
                                        SSL_CTX_set_max_proto_version, SSL_CTX_set_min_proto_version, SSL_CTX_set_mode,
                                        SSL_CTX_set_num_tickets, SSL_CTX_set_options, SSL_CTX_set_session_cache_mode,
                                        SSL_CTX_set_session_id_context, SSL_CTX_set_session_ticket_cb, SSL_CTX_set_timeout,
                                        SSL_CTX_set_tlsext_servername_callback, SSL_CTX_set_tlsext_status_cb,
                                        SSL_CTX_set_tlsext_ticket_key_evp_cb, SSL_CTX_set_verify, SSL_CTX_set_verify_depth, SSL_CTX_up_ref,
                                        SSL_SESSION_free, SSL_do_handshake, SSL_dup_CA_list, SSL_free, SSL_get0_alpn_selected,
                                        SSL_get0_param, SSL_get0_peer_certificate, SSL_get_early_data_status, SSL_get_error, SSL_new,
                                        SSL_pending, SSL_read_early_data, SSL_read_ex, SSL_session_reused, SSL_set_accept_state,
                                        SSL_set_alpn_protos, SSL_set_app_data, SSL_set_bio, SSL_set_connect_state, SSL_set_session,
                                        SSL_set_shutdown, SSL_set_tlsext_host_name, SSL_shutdown, SSL_version, SSL_write_early_data,
                                        SSL_write_ex, TLS_method, X509_NAME_free, X509_STORE_free, X509_STORE_new,
                                        X509_VERIFY_PARAM_set1_host, X509_VERIFY_PARAM_set1_ip, X509_VERIFY_PARAM_set1_ip_asc,
                                        X509_VERIFY_PARAM_set_hostflags, sk_X509_NAME_pop_free, start_mac)
from fastlb.data_plane.ready_list cimport list_ready
from fastlb.data_plane.system cimport (AF_INET, AF_INET6, ENOMEM, EPROTO, likely, memcmp, memcpy, memset, sockaddr, sockaddr_in,
                                       sockaddr_in6, unlikely)
from fastlb.data_plane.tls_bytes cimport (RECEIVE_BYTES, SENDING_BYTES, bio_ctrl, bio_read, bio_write, flush, flush_held, keep_received,
                                          send_held)
from fastlb.data_plane.tls_callbacks cimport (check_session, choose_certificates, choose_protocol, connection_of, let_pass, note_hello,
                                              staple)
from fastlb.data_plane.tls_facts cimport make_facts
from fastlb.data_plane.tls_material cimport (DIGEST_BYTES, Material, add_bundle, add_certificate, hash_settings, make_session_context,
                                             read_authorities)
from fastlb.data_plane.tls_memory cimport WATCHES_MEMORY, resize_memory, return_memory, take_memory
from fastlb.data_plane.types cimport (CLIENT_AUTH_NONE, CLIENT_AUTH_REQUIRED, IO_AGAIN, IO_CLOSED, IO_EOF, IO_ERROR, IO_PUT_OFF,
                                      IO_READABLE, IO_WRITE_CLOSED, KIND_CLIENT, MAX_KEY_TYPES, NO_INDEX, RELAY_RUNNING, TICKET_KEY_BYTES,
                                      X_CAME_BY_TLS, X_KEEP_ALIVE, X_SESSION, X_TUNNEL, Backend, Connection, Engine, Exchange,
                                      ImageBackend, ImageBackendTls, ImageHeader, ImageListener, ImageName, ImageSection, ImageText,
                                      ImageTicketKey, ImageTls, ImageTlsIdentity, Pool, Snapshot, TlsBackend, TlsConnection, TlsIdentity,
                                      TlsListener, TlsScratch, Transport)

cdef enum:
    RECORD_BYTES = 16384            # the most that a record carries (RFC 8446 section 5.1)
    SEND_BYTES = 65536              # of plain bytes in one send
    MAX_SILENT_BYTES = 65536        # of records without data in a row (KeyUpdate, tickets): a record of 16 KB that comes in pieces is below it
    MAX_TICKET_BYTES = 4096         # that share a send with data; one with a client's certificate in it may be larger
    MAX_RECORDS = 512               # in one call, then others have their turn: each costs a microsecond, also with one byte in it
    IV_BYTES = 16                   # of AES-256-CBC
    NAME_BYTES = 16                 # a ticket key: its name, then the key for HMAC, then that for AES
    MAC_KEY = 16
    CIPHER_KEY = 48

# ECDHE with AEAD only; AES first, and ChaCha20 where the client prefers it (SSL_OP_PRIORITIZE_CHACHA). ECDSA before RSA: its signatures cost
# us a thirtieth.
cdef const char* CIPHERS = (b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
                            b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305")
cdef const char* CIPHERSUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
cdef const char* GROUPS = b"X25519:P-256:P-384"

# Made at import and never changed: how SSLs reach their connections, and the cipher of tickets, which is slow to look up.
cdef BIO_METHOD* METHOD
cdef EVP_CIPHER* TICKET_CIPHER


cdef const char* openssl_version() noexcept nogil:
    return OpenSSL_version(OPENSSL_VERSION)


cdef inline void clear_errors() noexcept nogil:
    # What somebody else in this thread has left.
    if unlikely(ERR_peek_error() != 0):
        ERR_clear_error()


# ---------------------------------------------------------------------------------------------------------- tickets
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


# ---------------------------------------------------------------------------------------------------------- from an image to contexts
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
        done = authorities != NULL and add_bundle(authorities, NULL, image, &tls.authorities)
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
        bint renegotiates
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
        renegotiates = outcome == IO_AGAIN and SSL_version(ssl) != TLS1_3_VERSION
        engine.counters.tls_renegotiations += renegotiates
        if not flush(engine, connection) and got == 0:
            return IO_CLOSED
        if renegotiates and got == 0 and connection.kind == KIND_CLIENT:
            engine.last_errno = EPROTO          # a client has no reason to ask but to keep us busy; some backends want a certificate that way
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
