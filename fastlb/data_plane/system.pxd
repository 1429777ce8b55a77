"""libc and kernel externs, nothing else: no state, no function bodies of ours beyond one-line wrappers of compiler built-ins."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport off_t


cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    cdef struct sockaddr:
        sa_family_t sa_family
    cdef struct sockaddr_storage:
        sa_family_t ss_family
    cdef struct linger:
        int l_onoff
        int l_linger
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SO_TYPE, MSG_TRUNC
    int recvmmsg(int fd, mmsghdr* messages, unsigned int n, int flags, void* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int n, int flags)
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* control)
    unsigned char* CMSG_DATA(cmsghdr* control)
    size_t CMSG_SPACE(size_t size)
    size_t CMSG_LEN(size_t size)
    int SOL_SOCKET, SO_KEEPALIVE, SO_ERROR, SO_LINGER, SHUT_WR, SHUT_RD, MSG_NOSIGNAL, MSG_PEEK, MSG_DONTWAIT, MSG_MORE
    int socket(int domain, int type, int protocol)
    int bind(int fd, const sockaddr* address, socklen_t size)
    int connect(int fd, const sockaddr* address, socklen_t size)
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    int shutdown(int fd, int how)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    int getsockname(int fd, sockaddr* address, socklen_t* size)
    int getpeername(int fd, sockaddr* address, socklen_t* size)
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    cdef struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6, IP_BIND_ADDRESS_NO_PORT, IP_TRANSPARENT, IPV6_TRANSPARENT, IP_PKTINFO, IPV6_PKTINFO, IPV6_RECVPKTINFO
    uint16_t htons(uint16_t value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)
    int inet_pton(int family, const char* text, void* address)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        sa_family_t sun_family
        char sun_path[108]

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLET
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int max_events, int timeout_ms)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    cdef struct tm:
        int tm_sec, tm_min, tm_hour, tm_mday, tm_mon, tm_year, tm_wday
        long tm_gmtoff
    int CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME
    int clock_gettime(int clock, timespec* result)
    int nanosleep(const timespec* wanted, timespec* left)
    tm* gmtime_r(const time_t* when, tm* result)
    tm* localtime_r(const time_t* when, tm* result)

cdef extern from "<sys/timerfd.h>" nogil:
    int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new_value, itimerspec* old_value)

cdef extern from "<unistd.h>" nogil:
    int SEEK_END
    int close(int fd)
    # Tells the size of a memfd, which nobody reads or writes through its position: fstat would tie the wheel to glibc 2.33.
    off_t lseek(int fd, off_t offset, int whence)
    int getpid()
    ssize_t read(int fd, void* data, size_t size)
    ssize_t write(int fd, const void* data, size_t size)
    int ftruncate(int fd, int64_t size)

cdef extern from "<fcntl.h>" nogil:
    int O_NONBLOCK, O_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ, F_DUPFD_CLOEXEC
    int F_ADD_SEALS, F_GET_SEALS, F_SEAL_SHRINK, F_SEAL_SEAL
    int SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE
    int fcntl(int fd, int command, ...)
    int pipe2(int* descriptors, int flags)
    ssize_t splice(int fd_in, off_t* offset_in, int fd_out, off_t* offset_out, size_t size, unsigned int flags)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events, revents
    short POLLIN, POLLOUT
    int poll(pollfd* descriptors, unsigned long count, int timeout_ms)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t* set)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t* attributes)
    int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size)
    int pthread_attr_destroy(pthread_attr_t* attributes)
    int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)
    int pthread_detach(pthread_t thread)
    pthread_t pthread_self()
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* old)

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_NORESERVE
    void* MAP_FAILED
    void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset)
    int munmap(void* address, size_t size)
    int MFD_CLOEXEC, MFD_ALLOW_SEALING
    int memfd_create(const char* name, unsigned int flags)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* data, size_t size, unsigned int flags)

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, EINVAL, ECONNABORTED, ECONNREFUSED, ECONNRESET
    int EADDRNOTAVAIL, EPIPE, ETIMEDOUT, EPROTO, ENOTCONN

cdef extern from "<string.h>" nogil:
    void* memcpy(void* target, const void* source, size_t size)
    void* memmove(void* target, const void* source, size_t size)
    void* memset(void* target, int value, size_t size)
    int memcmp(const void* a, const void* b, size_t size)
    void* memchr(const void* data, int value, size_t size)
    void* memmem(const void* data, size_t size, const void* part, size_t part_size)
    size_t strlen(const char* text)

cdef extern from *:
    """
    #define fastlb_likely(x) __builtin_expect(!!(x), 1)
    #define fastlb_unlikely(x) __builtin_expect(!!(x), 0)
    static inline int fastlb_lowest_bit(unsigned long long x) { return __builtin_ctzll(x); }
    #define fastlb_prefetch(address) __builtin_prefetch((address), 1)
    """
    bint likely "fastlb_likely"(bint condition) nogil
    bint unlikely "fastlb_unlikely"(bint condition) nogil
    int lowest_bit "fastlb_lowest_bit"(uint64_t bits) nogil    # undefined for 0
    # Asks for a cache line that is going to be written. Any address will do; it need not be mapped.
    void prefetch "fastlb_prefetch"(const void* address) nogil

# Memory that other processes change: every order is named here, so that aarch64 is as right as x86-64.
cdef extern from *:
    """
    #define fastlb_load_relaxed(from) __atomic_load_n((from), __ATOMIC_RELAXED)
    #define fastlb_load_acquire(from) __atomic_load_n((from), __ATOMIC_ACQUIRE)
    #define fastlb_store_release(to, value) __atomic_store_n((to), (value), __ATOMIC_RELEASE)
    /* In one order with full fences, for queue.pyx: on x86-64 and aarch64 the same instruction as acquire and release. */
    #define fastlb_add(to, value) __atomic_fetch_add((to), (value), __ATOMIC_SEQ_CST)
    #define fastlb_load_ordered(from) __atomic_load_n((from), __ATOMIC_SEQ_CST)
    #define fastlb_set_bits(to, bits) __atomic_fetch_or((to), (bits), __ATOMIC_SEQ_CST)
    #define fastlb_keep_bits(to, bits) __atomic_fetch_and((to), (bits), __ATOMIC_SEQ_CST)
    #define fastlb_exchange_if(to, expected, value) \
        __atomic_compare_exchange_n((to), (expected), (value), 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)
    #define fastlb_full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    int64_t load_relaxed "fastlb_load_relaxed"(const int64_t* source) nogil
    uint32_t load_now "fastlb_load_relaxed"(const uint32_t* source) nogil              # as it is, without what was written before it
    int64_t load_count "fastlb_load_acquire"(const int64_t* source) nogil
    uint32_t load_word "fastlb_load_acquire"(const uint32_t* source) nogil
    uint64_t load_long "fastlb_load_acquire"(const uint64_t* source) nogil
    void store_word "fastlb_store_release"(uint32_t* target, uint32_t value) nogil
    void store_long "fastlb_store_release"(uint64_t* target, uint64_t value) nogil
    int64_t add_count "fastlb_add"(int64_t* target, int64_t value) nogil                # returns what was there
    bint exchange_if "fastlb_exchange_if"(int64_t* target, int64_t* expected, int64_t value) nogil  # False: *expected is what is there
    bint exchange_long_if "fastlb_exchange_if"(uint64_t* target, uint64_t* expected, uint64_t value) nogil     # as exchange_if
    bint exchange_word_if "fastlb_exchange_if"(uint32_t* target, uint32_t* expected, uint32_t value) nogil     # as exchange_if
    void full_fence "fastlb_full_fence"() nogil
    uint64_t load_ordered "fastlb_load_ordered"(const uint64_t* source) nogil
    uint64_t set_bits "fastlb_set_bits"(uint64_t* target, uint64_t bits) nogil           # returns what was there
    uint64_t keep_bits "fastlb_keep_bits"(uint64_t* target, uint64_t bits) nogil         # clears all others; returns what was there
    uint32_t add_word "fastlb_add"(uint32_t* target, uint32_t value) nogil               # returns what was there
    uint64_t add_long "fastlb_add"(uint64_t* target, uint64_t value) nogil               # returns what was there
