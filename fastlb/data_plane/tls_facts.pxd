# What is told of a client's TLS, and of its certificate: made once for a connection, when somebody asks (tls.pyx: tls_fact). For tls.pyx alone, as it
# is the one module that OpenSSL is linked into.
from libc.stdint cimport uint32_t
from libc.stdlib cimport malloc

from fastlb.data_plane.openssl cimport (BIGNUM, BIO, SSL, X509, X509_NAME, X509_V_OK, XN_FLAG_RFC2253, ASN1_INTEGER_to_BN, BIO_free,
                                        BIO_get_mem_data, BIO_new, BIO_puts, BIO_s_mem, BN_bn2hex, BN_free, ERR_clear_error, EVP_sha256,
                                        OPENSSL_free, SSL_CIPHER_get_name, SSL_get0_peer_certificate, SSL_get_current_cipher,
                                        SSL_get_servername, SSL_get_verify_result, SSL_get_version, SSL_session_reused,
                                        TLSEXT_NAMETYPE_host_name, X509_NAME_print_ex, X509_digest, X509_get0_serialNumber,
                                        X509_get_issuer_name, X509_get_subject_name, X509_verify_cert_error_string)
from fastlb.data_plane.system cimport memcpy, memset, strlen
from fastlb.data_plane.types cimport (TLS_CIPHER, TLS_CLIENT_FINGERPRINT, TLS_CLIENT_ISSUER, TLS_CLIENT_SERIAL, TLS_CLIENT_SUBJECT,
                                      TLS_CLIENT_VERIFY, TLS_RESUMED, TLS_SERVER_NAME, TLS_VERSION, TlsFacts)
from fastlb.data_plane.tls_material cimport DIGEST_BYTES

cdef enum:
    MAX_FACT_BYTES = 1024           # of a name in a certificate: more is cut


cdef inline void put_fact(TlsFacts* facts, uint32_t* at, uint32_t fact, const char* data, uint32_t size) noexcept nogil:
    size = min(size, <uint32_t>MAX_FACT_BYTES)
    size = min(size, <uint32_t>sizeof(facts.text) - at[0])
    facts.start[fact] = at[0]
    facts.size[fact] = size
    memcpy(facts.text + at[0], data, size)
    at[0] += size


cdef inline void put_bio(TlsFacts* facts, uint32_t* at, uint32_t fact, BIO* bio) noexcept nogil:
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


cdef inline void put_text(TlsFacts* facts, uint32_t* at, uint32_t fact, const char* text) noexcept nogil:
    if text != NULL:
        put_fact(facts, at, fact, text, <uint32_t>strlen(text))


cdef inline BIO* print_name(const X509_NAME* name) noexcept nogil:
    cdef BIO* bio = BIO_new(BIO_s_mem())
    if bio != NULL:
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253)      # control and other characters are escaped
    return bio


cdef inline void put_certificate(TlsFacts* facts, uint32_t* at, const SSL* ssl, const X509* certificate) noexcept nogil:
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


cdef inline TlsFacts* make_facts(const SSL* ssl) noexcept nogil:
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
