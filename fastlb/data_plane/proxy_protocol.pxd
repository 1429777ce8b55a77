from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastlb.data_plane.part cimport Part
from fastlb.data_plane.types cimport PROXY_FACTS

cdef enum:
    # Results of parse_proxy_header, beside how many bytes are missing at least (above 0).
    PROXY_PARSED = 0
    PROXY_MISSING = -1              # the first bytes are no header of either version
    PROXY_MALFORMED = -2            # they are, and what follows breaks the protocol or is longer than what we read

    # Who a header says that the client is.
    PROXY_NOBODY = 0                # nothing: the connection's own addresses hold (LOCAL, UNKNOWN)
    PROXY_INTERNET = 1              # `source`
    PROXY_UNIX = 2                  # somebody on the sender's machine

    # What a header says of the client's TLS with its sender.
    PROXY_HAS_TLS = 1
    PROXY_HAS_CERTIFICATE = 6       # on this connection, or on one whose TLS session it goes on with

ctypedef struct ProxyHeader:
    uint32_t size                   # what came behind it is the client's
    uint32_t client                 # PROXY_NOBODY, PROXY_INTERNET or PROXY_UNIX
    uint8_t source[16]              # of PROXY_INTERNET: IPv4 as ::ffff:a.b.c.d
    uint8_t destination[16]
    uint16_t source_port, destination_port
    uint32_t tls                    # PROXY_HAS_*
    uint32_t verify                 # 0: a certificate of the client is good
    Part said[PROXY_FACTS]          # those ProxyFacts that are texts of the header; borrowed from it

cdef uint32_t write_proxy_header(const ProxyHeader* header, uint32_t flags, char* data, uint32_t size) noexcept nogil
cdef int parse_proxy_header(const char* data, uint32_t size, ProxyHeader* header) noexcept nogil
