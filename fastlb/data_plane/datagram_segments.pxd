"""Several datagrams in one message: the kernel puts together what comes in a row from one sender (UDP_GRO), and takes apart what it is given as one
to send (UDP_SEGMENT), each with one way through its layers. All datagrams of a message have one size, but the last, which may be smaller.

Linux has both since 5.0; elsewhere each message is a datagram, as it is where the kernel refuses to take one apart (datagram.pyx: send_apart).
"""
from libc.stdint cimport uint16_t, uint32_t

from fastlb.data_plane.system cimport CMSG_DATA, CMSG_LEN, CMSG_SPACE, cmsghdr, memcpy, msghdr, setsockopt, unlikely
from fastlb.data_plane.types cimport DatagramBatch

cdef enum:
    SOL_UDP = 17                    # linux/socket.h, linux/udp.h: later than the C library that wheels are built against
    UDP_SEGMENT = 103
    UDP_GRO = 104
    # IPv6 without extension headers; IPv4 has room for 20 more. At most 64 parts are put together, as many as every kernel takes apart.
    MOST_TOGETHER_BYTES = 65487


cdef inline void take_together(int fd) noexcept nogil:
    # Has this socket's datagrams come together, where the kernel can.
    cdef int one = 1
    setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof(one))


cdef inline bint is_segment_size(const cmsghdr* control) noexcept nogil:
    return control.cmsg_level == SOL_UDP and control.cmsg_type == UDP_GRO


cdef inline uint16_t read_segment_size(cmsghdr* control) noexcept nogil:
    cdef int size
    memcpy(&size, CMSG_DATA(control), sizeof(size))
    return <uint16_t>size


cdef inline uint32_t count_datagrams(const DatagramBatch* batch, uint32_t i) noexcept nogil:
    # In this part.
    cdef uint32_t segment = batch.segments[i]
    if unlikely(segment != 0):
        return <uint32_t>(batch.parts[i].iov_len + segment - 1) // segment
    return 1


cdef inline const char* last_datagram(const DatagramBatch* batch, uint32_t i, uint32_t* size) noexcept nogil:
    # Of this part.
    cdef:
        uint32_t whole = <uint32_t>batch.parts[i].iov_len
    size[0] = whole - (count_datagrams(batch, i) - 1) * batch.segments[i] if batch.segments[i] else whole
    return <const char*>batch.parts[i].iov_base + (whole - size[0])


cdef inline uint32_t count_together(const DatagramBatch* batch, uint32_t first, uint32_t n) noexcept nogil:
    # How many of these parts, which are for one receiver, can leave as one message: at least the first.
    cdef:
        size_t size = batch.parts[first].iov_len, total = size
        uint32_t k = 1
    if batch.segments[first] != 0 or size == 0:
        return 1
    while k < n and batch.segments[first + k] == 0 and 0 < batch.parts[first + k].iov_len <= size:
        total += batch.parts[first + k].iov_len
        if total > <size_t>MOST_TOGETHER_BYTES:
            break
        k += 1
        if batch.parts[first + k - 1].iov_len < size:
            break
    return k


cdef inline void put_segment_size(msghdr* message, char* control, uint32_t used, uint16_t size) noexcept nogil:
    # Behind `used` bytes of its control data: into what size the kernel is to take it apart.
    cdef cmsghdr* own = <cmsghdr*>(control + used)
    own.cmsg_level = SOL_UDP
    own.cmsg_type = UDP_SEGMENT
    own.cmsg_len = CMSG_LEN(sizeof(size))
    memcpy(CMSG_DATA(own), &size, sizeof(size))
    message.msg_control = control
    message.msg_controllen = used + CMSG_SPACE(sizeof(size))
