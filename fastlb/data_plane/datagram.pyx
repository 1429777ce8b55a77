"""UDP listeners: datagrams come and leave in batches. Which session they belong to, and what becomes of that, datagram_session.pyx says.

    listener readable -> take_datagrams: one recvmmsg -> hear_client for each run of one client -> send_asked: one send, or one sendmmsg
    backend readable -> take_answers: one recvmmsg into the batch's answers -> (the batch of events ends) -> send_answers: one sendmmsg

What comes in a row may come as one message, and leaves as one where sizes allow (datagram_segments.pxd): a *part* of a batch is such a message, or
a single datagram. Which parts leave together never changes what arrives: the same datagrams, in the same order.

With transport it is the place of socket calls. Its memory is one scratch for the engine, made with the first UDP listener: nothing is allocated
for a datagram, and none is kept here beyond a batch of events. What a socket does not take at once is dropped and counted, as any router
would do: waiting would be a queue without bound.

A socket that is bound to every address has the kernel tell which one a client asked; the answer leaves from that one.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastlb.data_plane.datagram_segments cimport count_datagrams, count_together, is_segment_size, put_segment_size, read_segment_size, take_together
from fastlb.data_plane.datagram_session cimport end_sessions, end_soon, hear_client
from fastlb.data_plane.datagram_table cimport datagram_table_close, datagram_table_open
from fastlb.data_plane.system cimport (AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, EAGAIN, EINTR, ENOMEM,
                                       F_DUPFD_CLOEXEC, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, IPV6_RECVPKTINFO, MSG_DONTWAIT,
                                       MSG_NOSIGNAL, close, cmsghdr, errno, fcntl, getsockname, in6_pktinfo, in_pktinfo, iovec, likely, memcmp,
                                       memcpy, memset, msghdr, recvmmsg, send, sendmmsg, sendmsg, setsockopt, sockaddr, sockaddr_in,
                                       sockaddr_in6, sockaddr_storage, socklen_t, unlikely)
from fastlb.data_plane.types cimport (DATAGRAM_BYTES, DATAGRAM_CONTROL_BYTES, DATAGRAMS_PER_BATCH, IO_READABLE, Connection, DatagramBatch, DatagramKey,
                                      DatagramScratch, DatagramSession, DatagramTable, Engine, Listener)

cdef extern from "<errno.h>" nogil:
    int EINVAL, EIO

cdef enum:
    ANSWERS_PER_TURN = 16           # of one backend socket; then others have their turn
    SESSIONS_PER_TURN = 16          # a new one costs 30 us or so, most of it in the kernel


# ---------------------------------------------------------------------------------------------------------- life
cdef bint open_batch(DatagramBatch* batch) noexcept nogil:
    cdef uint32_t i
    batch.data = <char*>malloc(<size_t>DATAGRAMS_PER_BATCH * DATAGRAM_BYTES)
    if batch.data == NULL:
        return False
    for i in range(DATAGRAMS_PER_BATCH):
        batch.parts[i].iov_base = batch.data + <size_t>i * DATAGRAM_BYTES
        batch.parts[i].iov_len = DATAGRAM_BYTES
        batch.messages[i].msg_hdr.msg_iov = &batch.parts[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_control = batch.control[i]
        batch.messages[i].msg_hdr.msg_controllen = DATAGRAM_CONTROL_BYTES
    return True


cdef void close_datagram_scratch(Engine* engine) noexcept nogil:
    if engine.datagrams == NULL:
        return
    free(engine.datagrams.asked.data)
    free(engine.datagrams.answers.data)
    free(engine.datagrams)
    engine.datagrams = NULL


cdef bint open_scratch(Engine* engine) noexcept nogil:
    cdef uint32_t i
    if engine.datagrams != NULL:
        return True
    engine.datagrams = <DatagramScratch*>calloc(1, sizeof(DatagramScratch))
    if engine.datagrams == NULL:
        return False
    if not open_batch(&engine.datagrams.asked) or not open_batch(&engine.datagrams.answers):
        close_datagram_scratch(engine)
        return False
    for i in range(DATAGRAMS_PER_BATCH):
        prepare_to_receive(&engine.datagrams.asked, i)
    return True


cdef bint has_several_addresses(int fd, sockaddr_storage* name) noexcept nogil:
    # Whether it is bound to all of this machine's. *name: what it is bound to.
    cdef socklen_t size = sizeof(sockaddr_storage)
    memset(name, 0, sizeof(sockaddr_storage))
    if getsockname(fd, <sockaddr*>name, &size) != 0:
        return False
    if name.ss_family == AF_INET:
        return (<sockaddr_in*>name).sin_addr.s_addr == 0
    return name.ss_family == AF_INET6 and memcmp(&(<sockaddr_in6*>name).sin6_addr, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16) == 0


cdef int open_datagrams(Engine* engine, Listener* listener) noexcept nogil:
    # For a listener whose socket is a UDP socket. 0 or an errno.
    cdef:
        sockaddr_storage name
        int one = 1
        DatagramTable* table
    if not open_scratch(engine):
        return ENOMEM
    table = datagram_table_open()
    if table == NULL:
        return ENOMEM
    table.fd = listener.fd
    table.tells_local = has_several_addresses(listener.fd, &name)
    if table.tells_local:
        if name.ss_family == AF_INET:
            setsockopt(listener.fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one))
        else:
            setsockopt(listener.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one))
    take_together(listener.fd)
    listener.datagrams = table
    return 0


cdef void close_datagrams(Engine* engine, Listener* listener) noexcept nogil:
    # The last session of a listener is gone, and its socket with it.
    cdef DatagramTable* table = listener.datagrams
    listener.datagrams = NULL
    if table.owns_fd:
        send_answers(engine)                    # the last ones leave through it
        close(table.fd)
    datagram_table_close(table)


cdef void leave_socket(Engine* engine, Listener* listener) noexcept nogil:
    # Its socket goes back to its owner. What is still to be answered here is answered through a copy, so that clients see the same port; not
    # for long, as the copy keeps the port from others.
    cdef DatagramTable* table = listener.datagrams
    table.fd = fcntl(listener.fd, F_DUPFD_CLOEXEC, 0) if table.count else -1
    table.owns_fd = table.fd >= 0
    if table.owns_fd:
        end_soon(engine, listener)
    else:
        end_sessions(engine, listener)          # those for whom there was no descriptor


# ---------------------------------------------------------------------------------------------------------- addresses
cdef inline void put_address(uint8_t* target, const void* v4) noexcept nogil:
    # As ::ffff:a.b.c.d; `target` is zeroes.
    target[10] = target[11] = 0xFF
    memcpy(target + 12, v4, 4)


cdef void read_control(msghdr* message, DatagramKey* key, uint16_t* segment) noexcept nogil:
    # What the kernel tells beside datagrams: which of our addresses was asked (where *key is not NULL), and of what size each is, if there are
    # several.
    cdef cmsghdr* control = CMSG_FIRSTHDR(message)
    while control != NULL:
        if is_segment_size(control):
            segment[0] = read_segment_size(control)
        elif key == NULL:
            pass
        elif control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
            put_address(key.local, &(<in_pktinfo*>CMSG_DATA(control)).ipi_spec_dst)
        elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
            memcpy(key.local, &(<in6_pktinfo*>CMSG_DATA(control)).ipi6_addr, 16)
        control = CMSG_NXTHDR(message, control)


cdef inline void read_key(const DatagramTable* table, DatagramBatch* batch, uint32_t i, DatagramKey* key) noexcept nogil:
    # Whose datagrams this part is, and how many they are.
    cdef:
        const sockaddr_in6* v6 = &batch.names[i]
        const sockaddr_in* v4 = <const sockaddr_in*>v6
    memset(key, 0, sizeof(DatagramKey))
    if v6.sin6_family == AF_INET:
        put_address(key.client, &v4.sin_addr)
        key.port = v4.sin_port
    else:
        memcpy(key.client, &v6.sin6_addr, 16)
        key.port = v6.sin6_port
        key.scope = v6.sin6_scope_id
    batch.segments[i] = 0
    if unlikely(batch.messages[i].msg_hdr.msg_controllen != 0):
        read_control(&batch.messages[i].msg_hdr, key if table.tells_local else NULL, &batch.segments[i])


cdef inline bint is_v4(const uint8_t* address) noexcept nogil:
    return memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef uint32_t put_address_asked(const DatagramKey* key, char* control) noexcept nogil:
    # From which of our addresses an answer leaves, as control data: how many bytes of it.
    cdef cmsghdr* own = <cmsghdr*>control
    memset(control, 0, DATAGRAM_CONTROL_BYTES)
    if is_v4(key.client):
        own.cmsg_level = IPPROTO_IP
        own.cmsg_type = IP_PKTINFO
        own.cmsg_len = CMSG_LEN(sizeof(in_pktinfo))
        memcpy(&(<in_pktinfo*>CMSG_DATA(own)).ipi_spec_dst, key.local + 12, 4)
        return <uint32_t>CMSG_SPACE(sizeof(in_pktinfo))
    own.cmsg_level = IPPROTO_IPV6
    own.cmsg_type = IPV6_PKTINFO
    own.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
    memcpy(&(<in6_pktinfo*>CMSG_DATA(own)).ipi6_addr, key.local, 16)
    return <uint32_t>CMSG_SPACE(sizeof(in6_pktinfo))


cdef inline void put_destination(const DatagramTable* table, const DatagramKey* key, DatagramBatch* batch, uint32_t m) noexcept nogil:
    # Where message `m` goes, and from which of our addresses.
    cdef:
        msghdr* message = &batch.leaving[m].msg_hdr
        sockaddr_in6* v6 = &batch.names[m]
        sockaddr_in* v4 = <sockaddr_in*>v6
    memset(v6, 0, sizeof(sockaddr_in6))
    message.msg_name = v6
    if is_v4(key.client):
        v4.sin_family = <unsigned short>AF_INET
        v4.sin_port = key.port
        memcpy(&v4.sin_addr, key.client + 12, 4)
        message.msg_namelen = sizeof(sockaddr_in)
    else:
        v6.sin6_family = <unsigned short>AF_INET6
        v6.sin6_port = key.port
        memcpy(&v6.sin6_addr, key.client, 16)
        v6.sin6_scope_id = key.scope
        message.msg_namelen = sizeof(sockaddr_in6)
    if unlikely(table.tells_local):
        message.msg_control = batch.leaving_control[m]
        message.msg_controllen = put_address_asked(key, batch.leaving_control[m])


# ---------------------------------------------------------------------------------------------------------- messages
cdef inline uint32_t put_parts(DatagramBatch* batch, uint32_t m, uint32_t first, uint32_t n) noexcept nogil:
    # Message `m` of those that leave, blank but for its parts: as many of the `n` from `first` on as can leave as one. How many.
    cdef:
        msghdr* message = &batch.leaving[m].msg_hdr
        uint32_t together = count_together(batch, first, n)
    message.msg_name = NULL
    message.msg_namelen = 0
    message.msg_iov = &batch.parts[first]
    message.msg_iovlen = together
    message.msg_control = NULL
    message.msg_controllen = 0
    message.msg_flags = 0
    return together


cdef inline void put_segments(DatagramBatch* batch, uint32_t m, uint32_t first, uint32_t together) noexcept nogil:
    # How the kernel is to take message `m` apart, if it has to. What else stands in its control data is there.
    if unlikely(together > 1 or batch.segments[first] != 0):
        put_segment_size(&batch.leaving[m].msg_hdr, batch.leaving_control[m], <uint32_t>batch.leaving[m].msg_hdr.msg_controllen,
                         batch.segments[first] if batch.segments[first] else <uint16_t>batch.parts[first].iov_len)


cdef inline bint is_not_taken_apart(const DatagramBatch* batch, const msghdr* message, int error) noexcept nogil:
    # Whether this error of a message says that the kernel does not take it apart: its datagrams need fragments of IP, or the way out knows no checksums.
    return (message.msg_iovlen > 1 or batch.segments[message.msg_iov - batch.parts] != 0) and (error == EINVAL or error == EIO or error == EMSGSIZE)


cdef int send_apart(Engine* engine, int fd, const DatagramBatch* batch, const msghdr* message, uint32_t* n_sent) noexcept nogil:
    # Each datagram of a message by itself. 0, or the errno of a connected socket that says that nobody is there. *n_sent: how many of them;
    # what there is no room for is dropped and counted.
    cdef:
        msghdr one = message[0]
        iovec part
        const iovec* whole
        size_t at, size, i
    n_sent[0] = 0
    one.msg_controllen -= CMSG_SPACE(sizeof(uint16_t))      # the size of segments, which stands last
    if one.msg_controllen == 0:
        one.msg_control = NULL
    one.msg_iov = &part
    one.msg_iovlen = 1
    for i in range(message.msg_iovlen):
        whole = &message.msg_iov[i]
        size = batch.segments[whole - batch.parts]
        if size == 0:
            size = whole.iov_len
        at = 0
        while at < whole.iov_len:
            part.iov_base = <char*>whole.iov_base + at
            part.iov_len = size if size < whole.iov_len - at else whole.iov_len - at
            if sendmsg(fd, &one, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0:
                n_sent[0] += 1
            elif message.msg_name == NULL and not is_passing(errno):
                return errno
            else:
                engine.counters.datagrams_dropped += 1
            at += size
    return 0


cdef uint32_t count_all(const DatagramBatch* batch, uint32_t first, uint32_t n) noexcept nogil:
    # The datagrams of these parts.
    cdef uint32_t i, count = 0
    for i in range(first, first + n):
        count += count_datagrams(batch, i)
    return count


# ---------------------------------------------------------------------------------------------------------- from clients
cdef inline void prepare_to_receive(DatagramBatch* batch, uint32_t i) noexcept nogil:
    # A slot of `asked` takes any datagram.
    cdef msghdr* message = &batch.messages[i].msg_hdr
    batch.parts[i].iov_len = DATAGRAM_BYTES
    message.msg_name = &batch.names[i]
    message.msg_namelen = sizeof(sockaddr_in6)
    message.msg_control = batch.control[i]
    message.msg_controllen = DATAGRAM_CONTROL_BYTES
    message.msg_flags = 0


cdef void take_datagrams(Engine* engine, Listener* listener) noexcept nogil:
    # One turn of a listener, which holds its connection: level-triggered, so what is left is reported again. Where many were new, the next
    # turn is a short one, so that a flood of them leaves time to others.
    cdef:
        DatagramBatch* batch = &engine.datagrams.asked
        DatagramTable* table = listener.datagrams
        DatagramKey key
        DatagramKey next_key
        uint32_t i, first = 0, n
        uint64_t opened = engine.counters.udp_sessions_opened
        int received = recvmmsg(listener.fd, batch.messages, table.per_turn, MSG_DONTWAIT, NULL)
    if received <= 0:
        return                                  # a sibling was faster, or an error that concerns nobody's session
    n = <uint32_t>received
    for i in range(n):
        batch.parts[i].iov_len = batch.messages[i].msg_len
    read_key(table, batch, 0, &key)
    for i in range(1, n + 1):
        if i < n:
            read_key(table, batch, i, &next_key)
            if memcmp(&key, &next_key, sizeof(DatagramKey)) == 0:
                continue
        hear_client(engine, listener, &key, &batch.names[first], first, i - first)
        first = i
        key = next_key
    engine.counters.datagrams_in += count_all(batch, 0, n)
    for i in range(n):
        prepare_to_receive(batch, i)
    table.per_turn = DATAGRAMS_PER_BATCH
    if engine.counters.udp_sessions_opened - opened >= <uint64_t>SESSIONS_PER_TURN:
        table.per_turn = SESSIONS_PER_TURN


cdef int send_asked(Engine* engine, int fd, uint32_t first, uint32_t n, uint32_t* n_sent) noexcept nogil:
    # Parts of the turn that runs, to one backend. 0, or the errno that one of them met; *n_sent: how many before that. What the socket
    # has no room for, or what is too large for the way there, is dropped.
    cdef:
        DatagramBatch* batch = &engine.datagrams.asked
        uint32_t at, until = first + n, n_messages, together, i, _n_apart
        int sent, error
    n_sent[0] = 0
    while n_sent[0] < n:
        at = first + n_sent[0]
        if likely(until - at == 1 and batch.segments[at] == 0):
            if send(fd, <const char*>batch.parts[at].iov_base, batch.parts[at].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0:
                n_sent[0] += 1
                return 0
            if errno != EINTR:
                return errno
            continue
        n_messages = 0
        while at < until:
            together = put_parts(batch, n_messages, at, until - at)
            put_segments(batch, n_messages, at, together)
            n_messages += 1
            at += together
        sent = sendmmsg(fd, batch.leaving, n_messages, MSG_DONTWAIT | MSG_NOSIGNAL)
        if likely(sent > 0):
            for i in range(<uint32_t>sent):
                n_sent[0] += <uint32_t>batch.leaving[i].msg_hdr.msg_iovlen
            continue
        error = errno
        if is_not_taken_apart(batch, &batch.leaving[0].msg_hdr, error):
            error = send_apart(engine, fd, batch, &batch.leaving[0].msg_hdr, &_n_apart)
            if error == 0:
                n_sent[0] += <uint32_t>batch.leaving[0].msg_hdr.msg_iovlen
                continue
        if error != EINTR:
            return error
    return 0


# ---------------------------------------------------------------------------------------------------------- to clients
cdef int take_answers(Engine* engine, const DatagramTable* table, const DatagramSession* session, Connection* backend, uint32_t* n,
                      uint32_t* size, bint* more) noexcept nogil:
    # What the backend of a session has answered, to leave when this batch of events ends. 0, or the errno of its socket. *n: how many
    # datagrams, of *size bytes together; *more: there may be others.
    cdef:
        DatagramScratch* scratch = engine.datagrams
        DatagramBatch* batch = &scratch.answers
        uint32_t room, at, until, i, together
        int received
    n[0] = size[0] = 0
    more[0] = False
    if scratch.n_answers == <uint32_t>DATAGRAMS_PER_BATCH:
        send_answers(engine)
    at = scratch.n_answers
    room = DATAGRAMS_PER_BATCH - at
    if room > ANSWERS_PER_TURN:
        room = ANSWERS_PER_TURN
    while True:
        received = recvmmsg(backend.fd, &batch.messages[at], room, MSG_DONTWAIT, NULL)
        if received >= 0 or errno != EINTR:
            break
    if received < 0:
        if errno == EAGAIN:
            backend.io &= ~<uint32_t>IO_READABLE
            return 0
        return errno
    more[0] = <uint32_t>received == room
    if not more[0]:
        backend.io &= ~<uint32_t>IO_READABLE
    until = at + <uint32_t>received
    for i in range(at, until):
        batch.parts[i].iov_len = batch.messages[i].msg_len
        size[0] += batch.messages[i].msg_len
        batch.segments[i] = 0
        if unlikely(batch.messages[i].msg_hdr.msg_controllen != 0):
            read_control(&batch.messages[i].msg_hdr, NULL, &batch.segments[i])
        batch.messages[i].msg_hdr.msg_controllen = DATAGRAM_CONTROL_BYTES
        n[0] += count_datagrams(batch, i)
    while at < until:
        together = put_parts(batch, scratch.n_leaving, at, until - at)
        put_destination(table, &session.key, batch, scratch.n_leaving)
        put_segments(batch, scratch.n_leaving, at, together)
        scratch.sockets[scratch.n_leaving] = table.fd
        scratch.n_leaving += 1
        at += together
    scratch.n_answers = until
    return 0


cdef void send_answers(Engine* engine) noexcept nogil:
    # All that wait. What is not taken is dropped.
    cdef:
        DatagramScratch* scratch = engine.datagrams
        DatagramBatch* batch = &scratch.answers
        uint32_t at = 0, until, part = 0, n_parts, n_apart
        int sent, _i
    while at < scratch.n_leaving:
        until = at + 1
        while until < scratch.n_leaving and scratch.sockets[until] == scratch.sockets[at]:
            until += 1
        while at < until:
            sent = sendmmsg(scratch.sockets[at], &batch.leaving[at], until - at, MSG_DONTWAIT | MSG_NOSIGNAL)
            if likely(sent > 0):
                for _i in range(sent):
                    n_parts = <uint32_t>batch.leaving[at].msg_hdr.msg_iovlen
                    engine.counters.datagrams_out += count_all(batch, part, n_parts)
                    part += n_parts
                    at += 1
            elif errno != EINTR:
                n_parts = <uint32_t>batch.leaving[at].msg_hdr.msg_iovlen
                if is_not_taken_apart(batch, &batch.leaving[at].msg_hdr, errno):
                    send_apart(engine, scratch.sockets[at], batch, &batch.leaving[at].msg_hdr, &n_apart)
                    engine.counters.datagrams_out += n_apart
                else:
                    engine.counters.datagrams_dropped += count_all(batch, part, n_parts)
                part += n_parts
                at += 1
    for part in range(scratch.n_answers):
        batch.parts[part].iov_len = DATAGRAM_BYTES
    scratch.n_answers = scratch.n_leaving = 0
