"""The part of OpenSSL that tls.pyx uses, and no other module: its libraries are linked into that one alone."""
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <openssl/bio.h>
    #include <openssl/core_names.h>
    #include <openssl/err.h>
    #include <openssl/evp.h>
    #include <openssl/ocsp.h>
    #include <openssl/pem.h>
    #include <openssl/rand.h>
    #include <openssl/ssl.h>
    #include <openssl/x509.h>
    #include <openssl/x509v3.h>
    /* Nobody is asked for a password, which PEM_read_bio_PrivateKey else does at the terminal. */
    static int fastlb_no_password(char* buffer, int size, int writing, void* argument) { return -1; }
    static EVP_PKEY* fastlb_read_key(BIO* bio) { return PEM_read_bio_PrivateKey(bio, NULL, fastlb_no_password, NULL); }
    static int fastlb_start_mac(EVP_MAC_CTX* context, const unsigned char* key) {
        OSSL_PARAM parameters[3];
        parameters[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void*)key, 32);
        parameters[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char*)"SHA256", 0);
        parameters[2] = OSSL_PARAM_construct_end();
        return EVP_MAC_CTX_set_params(context, parameters);
    }
    """

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_set_mem_functions(void* (*take)(size_t, const char*, int) noexcept, void* (*resize)(void*, size_t, const char*, int) noexcept,
                                 void (*give_back)(void*, const char*, int) noexcept)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_SESSION:
        pass
    ctypedef struct SSL_CIPHER:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct X509_CRL:
        pass
    ctypedef struct X509_NAME:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct ASN1_INTEGER:
        pass
    ctypedef struct BIGNUM:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    ctypedef struct X509_STACK "STACK_OF(X509)":
        pass
    ctypedef struct X509_NAME_STACK "STACK_OF(X509_NAME)":
        pass

    const char* OpenSSL_version(int what)
    int OPENSSL_VERSION
    void OPENSSL_free(void* memory)
    void* OPENSSL_memdup(const void* data, size_t size)

    # errors
    void ERR_clear_error()
    unsigned long ERR_peek_error()
    unsigned long ERR_peek_last_error()
    int PEM_R_NO_START_LINE
    int ERR_GET_REASON(unsigned long error)
    void ERR_error_string_n(unsigned long error, char* text, size_t size)

    # contexts
    const SSL_METHOD* TLS_method()
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method)
    int SSL_CTX_up_ref(SSL_CTX* context)
    void SSL_CTX_free(SSL_CTX* context)
    uint64_t SSL_CTX_set_options(SSL_CTX* context, uint64_t options)
    uint64_t SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA, SSL_OP_NO_TICKET
    uint64_t SSL_OP_IGNORE_UNEXPECTED_EOF, SSL_OP_NO_ANTI_REPLAY
    long SSL_CTX_set_mode(SSL_CTX* context, long mode)
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    int SSL_CTX_set_min_proto_version(SSL_CTX* context, int version)
    int SSL_CTX_set_max_proto_version(SSL_CTX* context, int version)
    int SSL_CTX_set_cipher_list(SSL_CTX* context, const char* text)
    int SSL_CTX_set_ciphersuites(SSL_CTX* context, const char* text)
    int SSL_CTX_set1_groups_list(SSL_CTX* context, const char* text)
    int SSL_CTX_use_certificate(SSL_CTX* context, X509* certificate)
    int SSL_CTX_check_private_key(const SSL_CTX* context)
    int SSL_CTX_use_PrivateKey(SSL_CTX* context, EVP_PKEY* key)
    int SSL_CTX_set0_chain(SSL_CTX* context, X509_STACK* chain)
    int SSL_CTX_set_session_id_context(SSL_CTX* context, const unsigned char* data, unsigned int size)
    long SSL_CTX_set_session_cache_mode(SSL_CTX* context, long mode)
    long SSL_SESS_CACHE_OFF, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL
    void SSL_CTX_sess_set_new_cb(SSL_CTX* context, int (*callback)(SSL*, SSL_SESSION*) noexcept nogil)
    int SSL_set_alpn_protos(SSL* ssl, const unsigned char* protos, unsigned int size)
    int SSL_CTX_set_alpn_protos(SSL_CTX* context, const unsigned char* protocols, unsigned int size)
    long SSL_CTX_set_timeout(SSL_CTX* context, long seconds)
    int SSL_CTX_set_num_tickets(SSL_CTX* context, size_t count)
    void SSL_CTX_set_verify(SSL_CTX* context, int mode, int (*callback)(int, X509_STORE_CTX*) noexcept nogil)
    void SSL_set_verify(SSL* ssl, int mode, int (*callback)(int, X509_STORE_CTX*) noexcept nogil)
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    void SSL_CTX_set_verify_depth(SSL_CTX* context, int depth)
    void SSL_CTX_set1_cert_store(SSL_CTX* context, X509_STORE* store)
    X509_NAME_STACK* SSL_dup_CA_list(const X509_NAME_STACK* names)
    void SSL_CTX_set_client_CA_list(SSL_CTX* context, X509_NAME_STACK* names)
    int SSL_CTX_set_app_data(SSL_CTX* context, void* data)
    void* SSL_CTX_get_app_data(const SSL_CTX* context)
    long SSL_CTX_set_tlsext_servername_callback(SSL_CTX* context, int (*callback)(SSL*, int*, void*) noexcept nogil)
    long SSL_CTX_set_tlsext_status_cb(SSL_CTX* context, int (*callback)(SSL*, void*) noexcept nogil)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(SSL_CTX* context, int (*callback)(SSL*, unsigned char*, unsigned char*, EVP_CIPHER_CTX*,
                                                                               EVP_MAC_CTX*, int) noexcept nogil)
    ctypedef int SSL_TICKET_STATUS
    ctypedef int SSL_TICKET_RETURN
    int SSL_TICKET_EMPTY, SSL_TICKET_NO_DECRYPT, SSL_TICKET_SUCCESS_RENEW
    int SSL_TICKET_RETURN_IGNORE_RENEW, SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW
    int SSL_CTX_set_session_ticket_cb(SSL_CTX* context, int (*make)(SSL*, void*) noexcept nogil,
                                      SSL_TICKET_RETURN (*check)(SSL*, SSL_SESSION*, const unsigned char*, size_t, SSL_TICKET_STATUS,
                                                                 void*) noexcept nogil, void* argument)
    void SSL_CTX_set_alpn_select_cb(SSL_CTX* context, int (*callback)(SSL*, const unsigned char**, unsigned char*, const unsigned char*,
                                                                      unsigned int, void*) noexcept nogil, void* argument)
    void SSL_CTX_set_client_hello_cb(SSL_CTX* context, int (*callback)(SSL*, int*, void*) noexcept nogil, void* argument)
    int SSL_CLIENT_HELLO_SUCCESS
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL
    int SSL_AD_UNRECOGNIZED_NAME, SSL_AD_INTERNAL_ERROR
    int TLSEXT_NAMETYPE_host_name, TLSEXT_TYPE_application_layer_protocol_negotiation

    # connections
    SSL* SSL_new(SSL_CTX* context)
    void SSL_free(SSL* ssl)
    void SSL_set_bio(SSL* ssl, BIO* reading, BIO* writing)
    int SSL_set_app_data(SSL* ssl, void* data)
    void* SSL_get_app_data(const SSL* ssl)
    void SSL_set_accept_state(SSL* ssl)
    void SSL_set_connect_state(SSL* ssl)
    int SSL_set_tlsext_host_name(SSL* ssl, const char* name)
    int SSL_set_session(SSL* ssl, SSL_SESSION* session)
    void SSL_SESSION_free(SSL_SESSION* session)
    X509* SSL_SESSION_get0_peer(SSL_SESSION* session)
    uint64_t SSL_set_options(SSL* ssl, uint64_t options)
    int SSL_set_num_tickets(SSL* ssl, size_t count)
    int SSL_set_session_id_context(SSL* ssl, const unsigned char* data, unsigned int size)
    X509_VERIFY_PARAM* SSL_get0_param(SSL* ssl)
    int X509_VERIFY_PARAM_set1_host(X509_VERIFY_PARAM* parameters, const char* name, size_t size)
    int X509_VERIFY_PARAM_set1_ip(X509_VERIFY_PARAM* parameters, const unsigned char* address, size_t size)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM* parameters, const char* address)
    void X509_VERIFY_PARAM_set_hostflags(X509_VERIFY_PARAM* parameters, unsigned int flags)
    unsigned int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    int SSL_do_handshake(SSL* ssl)
    int SSL_version(const SSL* ssl)
    int TLS1_3_VERSION
    int SSL_EARLY_DATA_REJECTED, SSL_EARLY_DATA_ACCEPTED
    int SSL_get_early_data_status(const SSL* ssl)
    int SSL_CTX_set_max_early_data(SSL_CTX* context, unsigned int size)
    int SSL_read_early_data(SSL* ssl, void* data, size_t size, size_t* n)
    int SSL_write_early_data(SSL* ssl, const void* data, size_t size, size_t* n)
    int SSL_READ_EARLY_DATA_SUCCESS, SSL_READ_EARLY_DATA_FINISH
    int SSL_read_ex(SSL* ssl, void* data, size_t size, size_t* n)
    int SSL_write_ex(SSL* ssl, const void* data, size_t size, size_t* n)
    int SSL_pending(const SSL* ssl)
    int SSL_shutdown(SSL* ssl)
    int SSL_get_shutdown(const SSL* ssl)
    void SSL_set_shutdown(SSL* ssl, int mode)
    int SSL_SENT_SHUTDOWN, SSL_RECEIVED_SHUTDOWN
    int SSL_get_error(const SSL* ssl, int result)
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SSL, SSL_ERROR_SYSCALL
    int SSL_session_reused(const SSL* ssl)
    const char* SSL_get_version(const SSL* ssl)
    const SSL_CIPHER* SSL_get_current_cipher(const SSL* ssl)
    const char* SSL_CIPHER_get_name(const SSL_CIPHER* cipher)
    void SSL_get0_alpn_selected(const SSL* ssl, const unsigned char** data, unsigned int* size)
    const char* SSL_get_servername(const SSL* ssl, int kind)
    SSL_CTX* SSL_get_SSL_CTX(const SSL* ssl)
    SSL_CTX* SSL_set_SSL_CTX(SSL* ssl, SSL_CTX* context)
    X509* SSL_get_certificate(const SSL* ssl)
    X509* SSL_get0_peer_certificate(const SSL* ssl)
    long SSL_get_verify_result(const SSL* ssl)
    long SSL_set_tlsext_status_ocsp_resp(SSL* ssl, unsigned char* data, size_t size)
    int SSL_client_hello_get0_ext(SSL* ssl, unsigned int kind, const unsigned char** data, size_t* size)
    int SSL_R_NO_SHARED_CIPHER, SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SUITABLE_KEY_SHARE
    int SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_APPLICATION_PROTOCOL, SSL_R_VERSION_TOO_LOW
    int SSL_R_CERTIFICATE_VERIFY_FAILED, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE
    int SSL_AD_REASON_OFFSET
    int ERR_LIB_SSL
    int ERR_GET_LIB(unsigned long error)

    # bytes
    int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH
    int BIO_get_new_index()
    BIO_METHOD* BIO_meth_new(int kind, const char* name)
    int BIO_meth_set_write(BIO_METHOD* method, int (*write)(BIO*, const char*, int) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD* method, int (*read)(BIO*, char*, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD* method, long (*ctrl)(BIO*, int, long, void*) noexcept nogil)
    BIO* BIO_new(const BIO_METHOD* method)
    BIO* BIO_new_mem_buf(const void* data, int size)
    const BIO_METHOD* BIO_s_mem()
    long BIO_get_mem_data(BIO* bio, char** data)
    int BIO_free(BIO* bio)
    void BIO_set_init(BIO* bio, int init)
    void BIO_set_data(BIO* bio, void* data)
    void* BIO_get_data(BIO* bio)
    void BIO_clear_retry_flags(BIO* bio)
    void BIO_set_retry_read(BIO* bio)
    int BIO_puts(BIO* bio, const char* text)

    # certificates and keys
    X509* PEM_read_bio_X509(BIO* bio, void* into, void* callback, void* argument)
    X509_CRL* PEM_read_bio_X509_CRL(BIO* bio, void* into, void* callback, void* argument)
    EVP_PKEY* read_key "fastlb_read_key"(BIO* bio)
    void X509_free(X509* certificate)
    void X509_CRL_free(X509_CRL* crl)
    void EVP_PKEY_free(EVP_PKEY* key)
    X509_STACK* sk_X509_new_null()
    int sk_X509_push(X509_STACK* stack, X509* certificate)
    void sk_X509_pop_free(X509_STACK* stack, void (*free)(X509*) nogil)
    X509_NAME_STACK* sk_X509_NAME_new_null()
    int sk_X509_NAME_push(X509_NAME_STACK* stack, X509_NAME* name)
    void sk_X509_NAME_pop_free(X509_NAME_STACK* stack, void (*free)(X509_NAME*) nogil)
    X509_NAME* X509_NAME_dup(const X509_NAME* name)
    void X509_NAME_free(X509_NAME* name)
    X509_NAME* X509_get_subject_name(const X509* certificate)
    X509_NAME* X509_get_issuer_name(const X509* certificate)
    int X509_NAME_print_ex(BIO* bio, const X509_NAME* name, int indent, unsigned long flags)
    unsigned long XN_FLAG_RFC2253
    const ASN1_INTEGER* X509_get0_serialNumber(const X509* certificate)
    BIGNUM* ASN1_INTEGER_to_BN(const ASN1_INTEGER* number, BIGNUM* into)
    char* BN_bn2hex(const BIGNUM* number)
    void BN_free(BIGNUM* number)
    ctypedef struct ASN1_TIME:
        pass
    const ASN1_TIME* X509_get0_notAfter(const X509* certificate)
    int X509_cmp_current_time(const ASN1_TIME* time)
    int X509_digest(const X509* certificate, const EVP_MD* digest, unsigned char* data, unsigned int* size)
    const char* X509_verify_cert_error_string(long error)
    long X509_V_OK
    X509_STORE* X509_STORE_new()
    void X509_STORE_free(X509_STORE* store)
    int X509_STORE_add_cert(X509_STORE* store, X509* certificate)
    int X509_STORE_add_crl(X509_STORE* store, X509_CRL* crl)
    int X509_STORE_set_flags(X509_STORE* store, unsigned long flags)
    unsigned long X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL

    # ciphers of tickets, and digests
    const EVP_MD* EVP_sha1()
    const EVP_MD* EVP_sha256()
    int EVP_Digest(const void* data, size_t size, unsigned char* digest, unsigned int* digest_size, const EVP_MD* kind, void* engine)
    EVP_CIPHER* EVP_CIPHER_fetch(void* library, const char* name, const char* properties)
    int EVP_EncryptInit_ex2(EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, const unsigned char* key, const unsigned char* iv, void* parameters)
    int EVP_DecryptInit_ex2(EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, const unsigned char* key, const unsigned char* iv, void* parameters)
    int start_mac "fastlb_start_mac"(EVP_MAC_CTX* context, const unsigned char* key)
    int RAND_bytes(unsigned char* data, int size)
