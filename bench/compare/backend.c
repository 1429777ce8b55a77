// A minimal keep-alive HTTP/1.1 backend for benchmarks: one thread, one epoll set, answers from memory.
//
//   backend COUNTERS_FILE ADDRESS PORT        (prints "ready" once it accepts)
//
//   GET /bytes/N   N bytes with Content-Length, Date and Server; closes if the request says "Connection: close"
//   GET /held/N    the same with "Connection: close" in the answer, yet the connection stays open: for a relay that pools
//                  backend connections without parsing, so that only the client starts a new connection
//   GET /head      the request head as received, as the body: to check that every proxy forwards the same
//
// It is no HTTP server: no request bodies, no time-outs, no defence against bad input. COUNTERS_FILE is mapped and holds
// two 64-bit numbers, written by this process alone: requests answered and connections accepted.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 8192,       // longest request head accepted
    EVENTS = 256,
    MAX_PREPARED = 16,       // distinct (size, wording) pairs in one run; a benchmark uses two or three
    MAX_BODY = 64 << 20,
};

typedef struct {
    uint64_t requests, connections;
} Counters;

typedef struct {
    size_t body_bytes;
    bool says_close;
    char *bytes;             // owned, lives until exit
    size_t n_bytes;
    char *date;              // borrowed: into bytes
} Prepared;

typedef struct {
    int fd;
    uint32_t used;
    bool readable, hung_up, close_after;
    const char *out;         // borrowed: a Prepared, or own_out
    size_t out_left;
    char *own_out;           // owned, only for /head
    char in[HEAD_BYTES];
} Connection;

static Counters *counters;
static Prepared prepared[MAX_PREPARED];
static int n_prepared;
static char date_text[64];
static time_t date_second;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void refresh_date(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec == date_second)
        return;
    date_second = now.tv_sec;
    struct tm broken_down;
    strftime(date_text, sizeof date_text, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&date_second, &broken_down));
    for (int i = 0; i < n_prepared; i++)
        memcpy(prepared[i].date, date_text, strlen(date_text));
}

static const Prepared *find_prepared(size_t body_bytes, bool says_close) {
    for (int i = 0; i < n_prepared; i++)
        if (prepared[i].body_bytes == body_bytes && prepared[i].says_close == says_close)
            return &prepared[i];
    if (n_prepared == MAX_PREPARED || body_bytes > MAX_BODY)
        return NULL;
    Prepared *p = &prepared[n_prepared++];
    p->body_bytes = body_bytes;
    p->says_close = says_close;
    p->bytes = malloc(512 + body_bytes);
    if (!p->bytes)
        die("malloc");
    int head = sprintf(p->bytes,
                       "HTTP/1.1 200 OK\r\nServer: backend\r\nX-Powered-By: bench\r\nDate: %s\r\nContent-Type: application/octet-stream\r\n"
                       "Content-Length: %zu\r\n%s\r\n",
                       date_text, body_bytes, says_close ? "Connection: close\r\n" : "");
    memset(p->bytes + head, 'x', body_bytes);
    p->n_bytes = (size_t)head + body_bytes;
    p->date = strstr(p->bytes, "Date: ") + 6;
    return p;
}

static void close_connection(Connection *c) {
    close(c->fd);
    free(c->own_out);
    free(c);
}

// Takes one complete head off c->in and sets what to answer. False: not a request this program answers.
static bool answer(Connection *c, size_t head_bytes) {
    bool asks_close = memmem(c->in, head_bytes, "onnection: close", 16) != NULL;
    if (!memcmp(c->in, "GET /bytes/", 11) || !memcmp(c->in, "GET /held/", 10)) {
        bool held = c->in[5] == 'h';
        const Prepared *p = find_prepared(strtoul(c->in + (held ? 10 : 11), NULL, 10), held || asks_close);
        if (!p)
            return false;
        c->out = p->bytes;
        c->out_left = p->n_bytes;
        c->close_after = asks_close && !held;
    } else if (!memcmp(c->in, "GET /head ", 10)) {
        free(c->own_out);
        c->own_out = malloc(256 + head_bytes);
        if (!c->own_out)
            return false;
        int head = sprintf(c->own_out, "HTTP/1.1 200 OK\r\nServer: backend\r\nX-Powered-By: bench\r\nDate: %s\r\nContent-Length: %zu\r\n%s\r\n", date_text,
                           head_bytes, asks_close ? "Connection: close\r\n" : "");
        memcpy(c->own_out + head, c->in, head_bytes);
        c->out = c->own_out;
        c->out_left = (size_t)head + head_bytes;
        c->close_after = asks_close;
    } else {
        return false;
    }
    c->used -= head_bytes;
    if (c->used)
        memmove(c->in, c->in + head_bytes, c->used);
    return true;
}

// Runs a connection until it has to wait. False: it is to be closed.
static bool advance(Connection *c) {
    for (;;) {
        if (c->out_left) {
            ssize_t n = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
            if (n < 0)
                return errno == EAGAIN;
            c->out += n;
            c->out_left -= (size_t)n;
            if (c->out_left)
                continue;   // a full socket buffer answers EAGAIN, which arms the EPOLLOUT edge
            counters->requests++;
            if (c->close_after)
                return false;
        }
        char *end = c->used ? memmem(c->in, c->used, "\r\n\r\n", 4) : NULL;
        if (end) {
            if (!answer(c, (size_t)(end - c->in) + 4))
                return false;
            continue;
        }
        if (!c->readable)
            return true;
        if (c->used == HEAD_BYTES)
            return false;
        ssize_t n = recv(c->fd, c->in + c->used, HEAD_BYTES - c->used, 0);
        if (n <= 0) {
            c->readable = false;
            return n < 0 && errno == EAGAIN;
        }
        c->used += (uint32_t)n;
        c->readable = c->hung_up || c->used == HEAD_BYTES;   // a short read without a hang-up has emptied the socket
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: backend COUNTERS_FILE ADDRESS PORT\n");
        return 2;
    }
    int file = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *counters))
        die(argv[1]);
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counters == MAP_FAILED)
        die("mmap");

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
        die(argv[2]);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), epoll = epoll_create1(EPOLL_CLOEXEC);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);   // accepted sockets inherit it
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 65535))
        die("bind");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        die("epoll");
    refresh_date();
    puts("ready");
    fflush(stdout);

    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        refresh_date();
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (c) {
                if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                    c->readable = true;
                if (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                    c->hung_up = true;
                if (!advance(c))
                    close_connection(c);
                continue;
            }
            for (int taken = 0; taken < 64; taken++) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0)
                    break;
                c = malloc(sizeof *c);   // `in` stays untouched until bytes arrive
                if (!c)
                    die("malloc");
                memset(c, 0, offsetof(Connection, in));
                c->fd = fd;
                counters->connections++;
                event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
                    die("epoll_ctl");
            }
        }
    }
}
