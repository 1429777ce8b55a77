from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.types cimport Backend, Connection, Engine, Pool, Snapshot, TlsBackend, TlsConnection, TlsListener

cdef enum:
    BAD_TLS = -4                    # beside an errno: a certificate, key or setting of an image cannot be used
    TLS_WAITS = 0                   # results of shake_hands, beside -FAILURE_*
    TLS_STANDS = 1
    TLS_SAW_HTTP = 2                # the client's first bytes, in Engine.tls.received, are no TLS
    TLS_CAME_EARLY = 3              # it waits, and TlsConnection.early has something that need not

ctypedef struct TlsSet:
    # What an image says of TLS, compiled, in its order, on its way into a snapshot.
    TlsListener** listeners         # owned
    uint32_t n_listeners
    TlsBackend** backends           # owned
    uint32_t n_backends
    bint is_compiled
    char why[256]                   # what OpenSSL says of what cannot be used

# Where a snapshot is loaded.
cdef int compile_tls(const char* image, TlsSet* compiled) noexcept nogil
cdef void free_tls(TlsSet* compiled) noexcept nogil
cdef int load_tls(Engine* engine, Snapshot* snapshot, TlsSet* compiled) noexcept nogil
cdef void drop_tls_set(Snapshot* snapshot) noexcept nogil
cdef void set_listener_tls(TlsListener** held, const Snapshot* snapshot, uint32_t number) noexcept nogil
cdef void drop_tls(TlsListener* listener) noexcept nogil
cdef void close_tls_scratch(Engine* engine) noexcept nogil
cdef const char* openssl_version() noexcept nogil

# Connections.
cdef uint32_t agreed_protocol(const Connection* client, const char** protocol) noexcept nogil
cdef bint chose_http2(const Connection* client) noexcept nogil
cdef int shake_hands(Engine* engine, Connection* client) noexcept nogil
cdef void carry_early_data(Connection* client) noexcept nogil
cdef uint32_t tls_fact(Connection* client, uint32_t fact, const char** text) noexcept nogil
cdef bint open_backend_tls(Engine* engine, Connection* connection, const Snapshot* snapshot, const Pool* pool, uint32_t pick) noexcept nogil
cdef bint offer_http1(Connection* connection) noexcept nogil
cdef bint digest_sha1(const char* data, size_t size, unsigned char* digest) noexcept nogil
cdef int greet_backend(Engine* engine, Connection* connection) noexcept nogil
cdef void drop_tls_session(Backend* backend) noexcept nogil
cdef void close_tls(Engine* engine, Connection* connection, bint reset) noexcept nogil
