from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.types cimport MAX_HOST_BYTES

cdef enum:
    # 16 KiB and some records' headers. Browsers send 2 KiB with keys of post-quantum cryptography; OpenSSL takes no more than 128 KiB.
    MAX_CLIENT_HELLO_BYTES = 16512

    # Results of parse_client_hello, beside how many bytes are missing at least (above 0).
    HELLO_PARSED = 0
    HELLO_NOT_TLS = -1              # the first bytes are no handshake record with a ClientHello
    HELLO_TOO_LARGE = -2            # it says that it is, or its records are
    HELLO_MALFORMED = -3            # a size does not fit what holds it, an extension comes twice, something follows the end
    HELLO_BAD_NAME = -4             # its server name is no name of a host, or there are two

ctypedef struct ClientHello:
    # Must not be moved: `alpn` may point into `joined`.
    uint32_t size                   # of its records, with their headers: what came behind them is something else
    uint32_t version                # the highest that the client offers
    uint32_t server_name_size       # 0 = none
    char server_name[MAX_HOST_BYTES]    # lower case, without a dot at its end
    const uint8_t* alpn             # borrowed from `data` or `joined`: the protocols, each behind a byte with its size; NULL = none
    uint32_t alpn_size
    uint8_t joined[MAX_CLIENT_HELLO_BYTES]  # the message, where it came in several records

cdef int parse_client_hello(const char* data, uint32_t size, ClientHello* hello) noexcept nogil
cdef bint has_protocol(const uint8_t* protocols, uint32_t protocols_size, const char* protocol, uint32_t size) noexcept nogil
