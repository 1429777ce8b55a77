"""Networks of an image: whether a client's address lies in one of them."""
from libc.stdint cimport uint8_t, uint32_t

from fastlb.data_plane.system cimport memcmp
from fastlb.data_plane.types cimport Connection, ImageNetwork


cdef inline bint is_in_networks(const Connection* client, const ImageNetwork* network, uint32_t n_networks) noexcept nogil:
    # A client without an address (a unix socket) lies in none. "::/0" holds no IPv4 address, although they are kept as IPv6 ones.
    cdef:
        uint32_t least_bits = 96 if client.peer.ip_version == 4 else 0
        uint32_t _i, whole, rest
    if client.peer.ip_version == 0:
        return False
    for _i in range(n_networks):
        whole = network.prefix_bits >> 3
        rest = network.prefix_bits & 7
        if network.prefix_bits >= least_bits and memcmp(network.address, client.peer.ip, whole) == 0 and \
                (rest == 0 or (network.address[whole] ^ client.peer.ip[whole]) >> (8 - rest) == 0):
            return True
        network += 1
    return False
