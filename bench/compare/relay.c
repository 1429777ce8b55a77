// The floor: a relay that moves bytes between a client and a backend connection and parses nothing.
//
//   relay [-p] [-b BUFFER_KIB] ADDRESS PORT BACKEND_ADDRESS BACKEND_PORT      (prints "ready" once it accepts)
//
// One thread, one epoll set, sockets registered once and edge-triggered, one recv per readable event into a shared buffer,
// one send per recv, TCP_NODELAY. What a socket does not take is copied and sent when it is writable; meanwhile the other side is
// not read (back-pressure).
//
// Without -p each client connection opens its own backend connection. With -p it is the floor for a new client connection
// per request: a backend connection is borrowed from a pool when the client sends its first bytes, and after one message each way
// the client connection is closed and the backend's given back. As nothing is parsed, that holds for answers of one recv only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EVENTS = 256, CLIENT, BACKEND };

typedef struct Side Side;
struct Side {
    int fd;                       // -1: closed, freed at the end of the batch
    int kind;
    bool readable, hung_up;
    bool finished;                // its end of stream was seen and passed on
    size_t pending_bytes, pending_sent;
    char *pending;                // owned: bytes for this side that its socket did not take
    Side *peer;                   // borrowed; NULL: a client that sent nothing yet, or an idle pooled backend
    Side *next;                   // idle list, or dead list
};

static int epoll;
static bool pooled;
static struct sockaddr_in backend_address;
static char *buffer;
static size_t buffer_bytes = 256 << 10;
static Side *idle, *dead;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static Side *add_side(int fd, int kind) {
    Side *s = calloc(1, sizeof *s);
    if (!s)
        die("calloc");
    s->fd = fd;
    s->kind = kind;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
    return s;
}

static void drop_side(Side *s) {
    if (!s || s->fd < 0)
        return;
    close(s->fd);
    s->fd = -1;
    free(s->pending);
    s->pending = NULL;
    s->next = dead;               // an event of this batch may still point here
    dead = s;
}

static Side *open_backend(void) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&backend_address, sizeof backend_address) && errno != EINPROGRESS)
        die("connect");
    return add_side(fd, BACKEND);
}

static void join(Side *client, Side *backend) {
    client->peer = backend;
    backend->peer = client;
}

static Side *borrow_backend(void) {
    Side *s = idle;
    if (!s)
        return open_backend();
    idle = s->next;
    s->next = NULL;
    return s;
}

static void drop_idle(Side *s) {
    for (Side **at = &idle; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    drop_side(s);
}

static void drop_pair(Side *s) {
    drop_side(s->peer);
    drop_side(s);
}

// The one message each way was passed on: back to the pool with the backend connection, away with the client's.
static void finish_exchange(Side *backend) {
    drop_side(backend->peer);
    backend->peer = NULL;
    backend->next = idle;
    idle = backend;
}

// Sends what waits for s. False: broken.
static bool flush_pending(Side *s) {
    while (s->pending) {
        ssize_t n = send(s->fd, s->pending + s->pending_sent, s->pending_bytes - s->pending_sent, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        s->pending_sent += (size_t)n;
        if (s->pending_sent == s->pending_bytes) {
            free(s->pending);
            s->pending = NULL;
        }
    }
    return true;
}

// Reads s and passes it on, until s is empty or its peer takes no more. False: the pair is to be dropped.
static bool move_bytes(Side *s) {
    while (s->readable && !s->finished) {
        if (!s->peer) {
            if (s->kind == BACKEND)
                return false;     // an idle pooled backend that talks or hangs up
            join(s, borrow_backend());
        }
        if (s->peer->pending)
            return true;
        ssize_t n = recv(s->fd, buffer, buffer_bytes, 0);
        if (n < 0) {
            s->readable = false;
            return errno == EAGAIN;
        }
        if (n == 0) {
            s->finished = true;
            if (pooled || s->peer->finished)
                return false;
            shutdown(s->peer->fd, SHUT_WR);
            return true;
        }
        s->readable = s->hung_up || (size_t)n == buffer_bytes;   // a short read without a hang-up has emptied the socket
        ssize_t sent = send(s->peer->fd, buffer, (size_t)n, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN)
                return false;
            sent = 0;
        }
        if (sent < n) {
            Side *peer = s->peer;
            peer->pending_bytes = (size_t)(n - sent);
            peer->pending_sent = 0;
            peer->pending = malloc(peer->pending_bytes);
            if (!peer->pending)
                die("malloc");
            memcpy(peer->pending, buffer + sent, peer->pending_bytes);
        } else if (pooled && s->kind == BACKEND) {
            finish_exchange(s);
            if (s->readable)
                drop_idle(s);
            return true;
        }
    }
    return true;
}

static void handle(Side *s, uint32_t bits) {
    if (s->fd < 0)
        return;
    if (bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        s->readable = true;
    if (bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        s->hung_up = true;
    if (!s->peer && s->kind == BACKEND) {
        if (s->readable)
            drop_idle(s);
        return;
    }
    if (s->pending && (bits & EPOLLOUT)) {
        if (!flush_pending(s) || (!s->pending && s->peer && !move_bytes(s->peer))) {
            drop_pair(s);
            return;
        }
    }
    if (s->fd >= 0 && !move_bytes(s))
        drop_pair(s);
}

static struct sockaddr_in parse_address(const char *ip, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, ip, &address.sin_addr) != 1)
        die(ip);
    return address;
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "pb:")) != -1) {
        if (option == 'p')
            pooled = true;
        else if (option == 'b')
            buffer_bytes = (size_t)atoi(optarg) << 10;
        else
            return 2;
    }
    if (argc - optind != 4) {
        fprintf(stderr, "usage: relay [-p] [-b BUFFER_KIB] ADDRESS PORT BACKEND_ADDRESS BACKEND_PORT\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = parse_address(argv[optind], argv[optind + 1]);
    backend_address = parse_address(argv[optind + 2], argv[optind + 3]);
    buffer = malloc(buffer_bytes);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);   // accepted sockets inherit it
    if (!buffer || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 65535))
        die("bind");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        die("epoll");
    puts("ready");
    fflush(stdout);

    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) {
                handle(events[i].data.ptr, events[i].events);
                continue;
            }
            for (int taken = 0; taken < 64; taken++) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0)
                    break;
                Side *client = add_side(fd, CLIENT);
                if (!pooled)
                    join(client, open_backend());
            }
        }
        while (dead) {
            Side *s = dead;
            dead = s->next;
            free(s);
        }
    }
}
