"""The only file with socket calls.

Every call notes in Connection.io what it learned: a short read or EAGAIN clears IO_READABLE, a short write or EAGAIN clears
IO_WRITABLE. Edge-triggered epoll reports a change only once, so those bits are the truth and epoll only sets them:
- data and FIN queued together give one edge: after EPOLLRDHUP a short read does not clear IO_READABLE;
- a read that fills its buffer is followed by no second edge: it does not clear IO_READABLE.
`tls` offers the same Transport table over OpenSSL; its bytes, too, pass through the calls here.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastlb.data_plane.connection_table cimport connection_handle, open_connection
from fastlb.data_plane.system cimport (AF_INET, AF_INET6, AF_UNIX, EADDRNOTAVAIL, EAGAIN, ECONNABORTED, EINPROGRESS, EINTR, ENOMEM, EPOLL_CTL_ADD,
                                       EPOLL_CTL_DEL, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPROTO, F_GETPIPE_SZ, F_SETPIPE_SZ,
                                       IP_BIND_ADDRESS_NO_PORT, IP_TRANSPARENT, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPV6_TRANSPARENT, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, O_CLOEXEC,
                                       O_NONBLOCK, SHUT_WR, SO_ERROR, SO_KEEPALIVE,
                                       SO_LINGER, SO_TYPE, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SPLICE_F_MORE, SPLICE_F_MOVE,
                                       SPLICE_F_NONBLOCK, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_NODELAY, accept4, bind, close, connect, epoll_ctl, epoll_event, errno, fcntl,
                                       getsockname, getsockopt, htons, inet_ntop, iovec, likely, linger, memcmp, memcpy, memset, msghdr, pipe2, recv, send,
                                       sendmsg, setsockopt, shutdown, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socket,
                                       socklen_t, splice, strlen, unlikely)
from fastlb.data_plane.types cimport (ADDRESS_TEXT_BYTES, IO_AGAIN, IO_CLOSED, IO_EOF, IO_HALF_CLOSED, IO_READABLE, IO_WRITABLE,
                                      IO_WRITE_CLOSED, KIND_CLIENT, PIPE_BYTES, WRITEABLE_PIPE_MIN, Connection, Engine, ImageSocket, Transport)


cdef ssize_t plain_receive(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    # Bytes read; 0 = end of stream (IO_EOF set); IO_AGAIN; IO_CLOSED with engine.last_errno.
    cdef ssize_t n
    while True:
        n = recv(connection.fd, data, size, 0)
        if likely(n > 0):
            if <size_t>n < size and not connection.io & IO_HALF_CLOSED:
                connection.io &= ~<uint32_t>IO_READABLE
            return n
        if n == 0:
            connection.io |= IO_EOF
            connection.io &= ~<uint32_t>IO_READABLE
            return 0
        if errno == EAGAIN:
            connection.io &= ~<uint32_t>IO_READABLE
            return IO_AGAIN
        if errno != EINTR:
            engine.last_errno = errno
            connection.io &= ~<uint32_t>IO_READABLE
            return IO_CLOSED


cdef ssize_t peek(Engine* engine, Connection* connection, char* data, size_t size) noexcept nogil:
    # As plain_receive, but what is read is there to be read again, and IO_READABLE stays where anything was.
    cdef ssize_t n
    while True:
        n = recv(connection.fd, data, size, MSG_PEEK)
        if n >= 0:
            return n
        if errno == EAGAIN:
            connection.io &= ~<uint32_t>IO_READABLE
            return IO_AGAIN
        if errno != EINTR:
            engine.last_errno = errno
            return IO_CLOSED


cdef inline ssize_t send_flagged(Engine* engine, Connection* connection, const char* data, size_t size, int flags) noexcept nogil:
    # Bytes accepted (fewer than `size`: the socket is full); IO_AGAIN; IO_CLOSED with engine.last_errno.
    cdef ssize_t n
    while True:
        n = send(connection.fd, data, size, flags)
        if likely(n >= 0):
            if <size_t>n < size:
                connection.io &= ~<uint32_t>IO_WRITABLE
            return n
        if errno == EAGAIN:
            connection.io &= ~<uint32_t>IO_WRITABLE
            return IO_AGAIN
        if errno != EINTR:
            engine.last_errno = errno
            connection.io &= ~<uint32_t>IO_WRITABLE
            return IO_CLOSED


cdef ssize_t plain_send(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    return send_flagged(engine, connection, data, size, MSG_NOSIGNAL)


cdef ssize_t send_last(Engine* engine, Connection* connection, const char* data, size_t size) noexcept nogil:
    # As plain_send, of a plain connection whose write side is shut, or which closes, next: the kernel waits for that, and both leave in one segment.
    return send_flagged(engine, connection, data, size, MSG_NOSIGNAL | MSG_MORE)


cdef ssize_t plain_send_parts(Engine* engine, Connection* connection, const char** parts, const size_t* sizes,
                              int n_parts) noexcept nogil:
    # As plain_send for up to 4 parts in one system call.
    cdef:
        iovec vectors[4]
        msghdr message
        size_t size = 0
        ssize_t n
        int i
    memset(&message, 0, sizeof(message))
    for i in range(n_parts):
        vectors[i].iov_base = <void*>parts[i]
        vectors[i].iov_len = sizes[i]
        size += sizes[i]
    message.msg_iov = vectors
    message.msg_iovlen = <size_t>n_parts
    while True:
        n = sendmsg(connection.fd, &message, MSG_NOSIGNAL)
        if likely(n >= 0):
            if <size_t>n < size:
                connection.io &= ~<uint32_t>IO_WRITABLE
            return n
        if errno == EAGAIN:
            connection.io &= ~<uint32_t>IO_WRITABLE
            return IO_AGAIN
        if errno != EINTR:
            engine.last_errno = errno
            connection.io &= ~<uint32_t>IO_WRITABLE
            return IO_CLOSED


cdef int plain_shut_write(Engine* engine, Connection* connection) noexcept nogil:
    connection.io |= IO_WRITE_CLOSED
    return shutdown(connection.fd, SHUT_WR)


cdef Transport PLAIN
PLAIN.receive = plain_receive
PLAIN.send = plain_send
PLAIN.send_parts = plain_send_parts
PLAIN.shut_write = plain_shut_write
PLAIN.can_splice = True


cdef const Transport* plain_transport() noexcept nogil:
    return &PLAIN


cdef bint watch(Engine* engine, Connection* connection) noexcept nogil:
    # Registers once, for everything, edge-triggered; never modified afterwards.
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.u64 = connection_handle(connection)
    return epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, connection.fd, &event) == 0


cdef bint watch_input(Engine* engine, Connection* connection) noexcept nogil:
    # As watch, for a UDP socket: it has room to write whenever a datagram has left, and would say so each time.
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLET
    event.data.u64 = connection_handle(connection)
    return epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, connection.fd, &event) == 0


cdef bint watch_listener(Engine* engine, Connection* connection) noexcept nogil:
    # Level-triggered, so that what one turn leaves in the accept queue is reported again.
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = connection_handle(connection)
    return epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, connection.fd, &event) == 0


cdef void unwatch(Engine* engine, Connection* connection) noexcept nogil:
    # Explicit for listeners, whose description another process may hold open. close() does it for the others.
    cdef epoll_event event
    event.events = 0
    event.data.u64 = 0
    epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, connection.fd, &event)


cdef inline bint is_ipv4(const uint8_t* ip) noexcept nogil:
    return memcmp(ip, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef uint32_t write_ipv4(const uint8_t* ip, char* text) noexcept nogil:
    # inet_ntop goes by way of printf, which is a hundredth of a short connection.
    cdef:
        uint32_t i, at = 0
        uint8_t part
    for i in range(4):
        part = ip[i]
        if part >= 100:
            text[at] = <char>(48 + part // 100)
            at += 1
        if part >= 10:
            text[at] = <char>(48 + part // 10 % 10)
            at += 1
        text[at] = <char>(48 + part % 10)
        text[at + 1] = 46
        at += 2
    text[at - 1] = 0
    return at - 1


cdef uint32_t write_address(const uint8_t* ip, char* text) noexcept nogil:
    # An address of 16 bytes as text of up to ADDRESS_TEXT_BYTES with a zero byte behind it; ::ffff:a.b.c.d is written as IPv4. Returns its size.
    if is_ipv4(ip):
        return write_ipv4(ip + 12, text)
    inet_ntop(AF_INET6, ip, text, ADDRESS_TEXT_BYTES)
    return <uint32_t>strlen(text)


cdef void note_peer(Connection* connection, const sockaddr_storage* address) noexcept nogil:
    # Keeps the client's address, once, as bytes and as text; IPv4 clients of an IPv6 socket are written as IPv4. Unix sockets have none: "unix:".
    cdef:
        const sockaddr_in* v4 = <const sockaddr_in*>address
        const sockaddr_in6* v6 = <const sockaddr_in6*>address
        uint8_t* ip = connection.peer.ip
        uint16_t port
    if address.ss_family == AF_INET:
        ip[10] = ip[11] = 0xFF
        memcpy(ip + 12, &v4.sin_addr, 4)
        port = v4.sin_port
    elif address.ss_family == AF_INET6:
        memcpy(ip, &v6.sin6_addr, 16)
        port = v6.sin6_port
    else:
        memcpy(connection.peer.address, b"unix:", 6)
        connection.address_size = 5
        return
    connection.peer.ip_version = 4 if is_ipv4(ip) else 6
    connection.peer_port = (port >> 8) | <uint16_t>((port & 255) << 8)
    connection.address_size = <uint8_t>write_address(ip, connection.peer.address)


cdef int accept_client(Engine* engine, Connection* listener, Connection** accepted) noexcept nogil:
    # 0 with *accepted (watched), IO_AGAIN = queue empty, else an errno: EMFILE, ENFILE, ENOBUFS and ENOMEM mean "pause".
    # TCP_NODELAY is inherited from the listening socket.
    cdef:
        sockaddr_storage address
        socklen_t size
        int fd
        Connection* connection
    accepted[0] = NULL
    while True:
        size = sizeof(address)
        fd = accept4(listener.fd, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if likely(fd >= 0):
            break
        if errno == EINTR or errno == ECONNABORTED or errno == EPROTO:
            continue                            # that client is gone; the next one may be there
        if errno == EAGAIN:
            return IO_AGAIN
        return errno
    connection = open_connection(&engine.connections, fd, KIND_CLIENT)
    if connection == NULL:
        close(fd)
        return ENOMEM
    connection.transport = &PLAIN
    connection.io = IO_WRITABLE
    note_peer(connection, &address)
    accepted[0] = connection
    return 0


cdef bint check_socket(const ImageSocket* options) noexcept nogil:
    # Of an image. The limits are the kernel's (MAX_TCP_KEEPIDLE and its like); whether an address is ours it says when it is used.
    return options.keepalive_idle_s <= 32767 and options.keepalive_interval_s <= 32767 and options.keepalive_count <= 127 \
        and (options.source_size == 0 or options.source_size == sizeof(sockaddr_in) or options.source_size == sizeof(sockaddr_in6)) \
        and options.is_transparent <= 1 and (options.source_size == 0 or not options.is_transparent)


cdef socklen_t pretend(int fd, int family, const Connection* client, sockaddr_storage* address) noexcept nogil:
    # Has a socket be allowed the client's address, which is put to *address without a port. Returns its size; 0: the client has none of this family,
    # or we may not.
    cdef:
        sockaddr_in* v4 = <sockaddr_in*>address
        sockaddr_in6* v6 = <sockaddr_in6*>address
        int one = 1
    memset(address, 0, sizeof(sockaddr_in6))
    address.ss_family = <uint16_t>family
    if family == AF_INET and client.peer.ip_version == 4:
        memcpy(&v4.sin_addr, client.peer.ip + 12, 4)
        return sizeof(sockaddr_in) if setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof(one)) == 0 else 0
    if family == AF_INET6 and client.peer.ip_version == 6:
        memcpy(&v6.sin6_addr, client.peer.ip, 16)
        return sizeof(sockaddr_in6) if setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &one, sizeof(one)) == 0 else 0
    return 0


cdef int set_socket(int fd, int family, int kind, const ImageSocket* options, const Connection* client) noexcept nogil:
    # 0 or EADDRNOTAVAIL: the address cannot be bound, for whatever reason, which is no fault of a backend's. A port is chosen when it connects, so
    # that one serves for many backends.
    cdef:
        int one = 1, idle_s = <int>options.keepalive_idle_s, interval_s = <int>options.keepalive_interval_s, count = <int>options.keepalive_count
        const sockaddr* source = <const sockaddr*>options.source
        socklen_t size = options.source_size
        sockaddr_storage clients
    if idle_s != 0 and kind == SOCK_STREAM:
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count))
    if options.is_transparent:
        size = pretend(fd, family, client, &clients)
        if size == 0:
            return EADDRNOTAVAIL
        source = <const sockaddr*>&clients
    if size != 0 and source.sa_family == family:
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one))
        if bind(fd, source, size) != 0:
            return EADDRNOTAVAIL
    return 0


cdef int start_connect(Engine* engine, const char* address, uint32_t address_size, int kind, const ImageSocket* options, const Connection* client,
                       int* fd) noexcept nogil:
    # `kind`: SOCK_STREAM or SOCK_DGRAM; `client`: on whose behalf. 0 = connected at once (unix and UDP sockets), EINPROGRESS, or another errno with nothing left open. *fd owned by the caller.
    cdef:
        const sockaddr* where = <const sockaddr*>address
        int one = 1, result
    fd[0] = socket(where.sa_family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd[0] < 0:
        return errno
    if where.sa_family != AF_UNIX and likely(kind == SOCK_STREAM):
        setsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if unlikely(options.is_set) and where.sa_family != AF_UNIX:
        result = set_socket(fd[0], where.sa_family, kind, options, client)
        if result != 0:
            close(fd[0])
            fd[0] = -1
            return result
    while connect(fd[0], where, address_size) != 0:
        if errno == EINTR:
            continue
        result = errno
        if result == EINPROGRESS:
            return result
        close(fd[0])
        fd[0] = -1
        return result
    return 0


cdef ssize_t send_first(Engine* engine, Connection* connection, const char* data, size_t size, bint more) noexcept nogil:
    # What stands before anything that the connection's own transport sends. With `more` that follows at once, and leaves in the same segment.
    cdef ssize_t n
    while True:
        n = send(connection.fd, data, size, MSG_NOSIGNAL | (MSG_MORE if more else 0))
        if n >= 0 or errno != EINTR:
            return n


cdef bint local_address(int fd, uint8_t* ip, uint16_t* port) noexcept nogil:
    # Where a socket is bound: IPv4 as ::ffff:a.b.c.d. False: it has no such address.
    cdef:
        sockaddr_storage address
        const sockaddr_in* v4 = <const sockaddr_in*>&address
        const sockaddr_in6* v6 = <const sockaddr_in6*>&address
        socklen_t size = sizeof(address)
    if fd < 0 or getsockname(fd, <sockaddr*>&address, &size) != 0:
        return False
    if address.ss_family == AF_INET:
        memcpy(ip, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12)
        memcpy(ip + 12, &v4.sin_addr, 4)
        port[0] = htons(v4.sin_port)
    elif address.ss_family == AF_INET6:
        memcpy(ip, &v6.sin6_addr, 16)
        port[0] = htons(v6.sin6_port)
    else:
        return False
    return True


cdef bint is_datagram_socket(int fd) noexcept nogil:
    cdef:
        int kind = 0
        socklen_t size = sizeof(kind)
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 and kind == SOCK_DGRAM


cdef int connect_result(Connection* connection) noexcept nogil:
    # What is wrong with this connection's socket, as far as no other call has told: 0 or an errno. Of a connect that was in progress its outcome.
    cdef:
        int error = 0
        socklen_t size = sizeof(error)
    if getsockopt(connection.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    return error


cdef bint still_open(Connection* connection) noexcept nogil:
    # Whether an idle backend connection has neither ended nor sent anything. One system call: only asked before a request that
    # could not be sent a second time. What TLS says for itself (session tickets) is nothing.
    cdef char byte
    if unlikely(connection.tls != NULL):
        connection.io |= IO_READABLE
        return connection.transport.receive(connection.tls.engine, connection, &byte, 1) == IO_AGAIN
    return recv(connection.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN


cdef void close_descriptor(Connection* connection, bint reset) noexcept nogil:
    # The one place where a connection's descriptor closes; the kernel takes it out of the epoll set with it.
    cdef linger now
    if reset:
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
    close(connection.fd)
    connection.fd = -1


cdef int open_pipe(int* read_fd, int* write_fd) noexcept nogil:
    # The pipe's size in bytes; 0 = too small, which is what an unprivileged user gets past the kernel's quota; -1 = none now.
    cdef:
        int descriptors[2]
        int size
    if pipe2(descriptors, O_NONBLOCK | O_CLOEXEC) != 0:
        return -1
    fcntl(descriptors[1], F_SETPIPE_SZ, <int>PIPE_BYTES)
    size = fcntl(descriptors[1], F_GETPIPE_SZ)
    if size < <int>WRITEABLE_PIPE_MIN:
        close(descriptors[0])
        close(descriptors[1])
        return 0
    read_fd[0] = descriptors[0]
    write_fd[0] = descriptors[1]
    return size


cdef ssize_t splice_in(Engine* engine, Connection* source, int pipe_fd, size_t size) noexcept nogil:
    # Socket -> pipe. EAGAIN may mean socket empty or pipe full; the caller knows the pipe's fill. A short splice says nothing
    # about the socket, so only EAGAIN clears IO_READABLE, and that is the caller's decision too.
    cdef ssize_t n
    while True:
        n = splice(source.fd, NULL, pipe_fd, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n > 0:
            return n
        if n == 0:
            source.io |= IO_EOF
            source.io &= ~<uint32_t>IO_READABLE
            return 0
        if errno == EAGAIN:
            return IO_AGAIN
        if errno != EINTR:
            engine.last_errno = errno
            source.io &= ~<uint32_t>IO_READABLE
            return IO_CLOSED


cdef ssize_t splice_out(Engine* engine, Connection* sink, int pipe_fd, size_t size, bint more) noexcept nogil:
    # Pipe -> socket. The pipe is never empty here, so EAGAIN means the socket is full; a short splice means nothing certain.
    cdef:
        ssize_t n
        unsigned int flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK
    if more:
        flags |= SPLICE_F_MORE
    while True:
        n = splice(pipe_fd, NULL, sink.fd, NULL, size, flags)
        if n > 0:
            return n
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and errno == EAGAIN:
            sink.io &= ~<uint32_t>IO_WRITABLE
            return IO_AGAIN
        engine.last_errno = errno
        return IO_CLOSED
