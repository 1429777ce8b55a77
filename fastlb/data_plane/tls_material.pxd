# Certificates, keys, authorities and lists of what is revoked: from an image, where they are PEM, to what OpenSSL has for them; and the hashes over
# what decides who is believed. Runs when contexts are made, never for a connection. For tls.pyx alone, which OpenSSL is linked into.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport malloc

from fastlb.data_plane.openssl cimport (BIO, ERR_GET_REASON, EVP_PKEY, PEM_R_NO_START_LINE, SSL_CTX, X509, X509_CRL, X509_NAME_STACK,
                                        X509_STACK, X509_STORE, X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL, BIO_free,
                                        BIO_new_mem_buf, ERR_clear_error, ERR_peek_last_error, EVP_Digest, EVP_PKEY_free, EVP_sha256,
                                        PEM_read_bio_X509, PEM_read_bio_X509_CRL, SSL_CTX_check_private_key, SSL_CTX_set0_chain,
                                        SSL_CTX_use_PrivateKey, SSL_CTX_use_certificate, X509_CRL_free, X509_NAME_dup, X509_STORE_add_cert,
                                        X509_STORE_add_crl, X509_STORE_new, X509_STORE_set_flags, X509_free, X509_get_subject_name,
                                        read_key, sk_X509_NAME_new_null, sk_X509_NAME_push, sk_X509_new_null, sk_X509_pop_free,
                                        sk_X509_push)
from fastlb.data_plane.system cimport memcpy, memset
from fastlb.data_plane.types cimport (NO_INDEX, ImageBackendTls, ImageCertificate, ImageHeader, ImageListener, ImageText, ImageTls,
                                      TlsIdentity)

cdef enum:
    DIGEST_BYTES = 32

cdef struct Material:
    # What the contexts of one listener share while they are made.
    const char* image               # borrowed, as what follows
    const ImageHeader* header
    const ImageTls* tls
    X509_STORE* authorities         # owned; NULL = clients are not asked for certificates
    X509_NAME_STACK* names          # owned: of the authorities
    unsigned char session_context[DIGEST_BYTES]


cdef inline BIO* open_text(const char* image, const ImageText* text) noexcept nogil:
    return BIO_new_mem_buf(image + text.offset, <int>text.size)


cdef inline bint is_at_end() noexcept nogil:
    # Whether nothing more of a PEM text could be read because nothing is left. What cannot be parsed is an error: a bundle must not be cut there
    # without a word.
    if ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE:
        return False
    ERR_clear_error()
    return True


cdef inline bint add_bundle(X509_STORE* store, X509_NAME_STACK* names, const char* image, const ImageText* text) noexcept nogil:
    # A bundle of authorities; their names go to `names` unless that is NULL. False: there is none in it, or something that cannot be read.
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
        done = X509_STORE_add_cert(store, certificate) == 1 \
            and (names == NULL or sk_X509_NAME_push(names, X509_NAME_dup(X509_get_subject_name(certificate))) > 0)
        X509_free(certificate)
    BIO_free(bio)
    return done and n != 0


cdef inline bint read_authorities(Material* material) noexcept nogil:
    # Who may have signed clients' certificates, and which of those are revoked.
    cdef:
        BIO* bio
        X509_CRL* crl
        bint done
        uint32_t n = 0
    material.authorities = X509_STORE_new()
    material.names = sk_X509_NAME_new_null()
    if material.authorities == NULL or material.names == NULL \
            or not add_bundle(material.authorities, material.names, material.image, &material.tls.client_ca):
        return False
    if material.tls.client_crl.size == 0:
        return True
    bio = open_text(material.image, &material.tls.client_crl)
    done = bio != NULL
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


cdef inline bint make_session_context(Material* material, const ImageListener* listener) noexcept nogil:
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


cdef inline bint hash_settings(const char* image, const ImageHeader* header, const ImageBackendTls* tls, uint64_t* hash) noexcept nogil:
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


cdef inline bint add_certificate(Material* material, TlsIdentity* identity, uint32_t number) noexcept nogil:
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
