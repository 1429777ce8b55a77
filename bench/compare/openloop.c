// An open-loop client: requests leave on a fixed schedule, whatever the answers do, and a latency is counted from the
// moment the schedule named, not from the moment of sending. So a stall is seen by every request that it delayed (no coordinated
// omission), and the client's own lateness counts too: subtract a direct run to be rid of it.
//
//   openloop ADDRESS PORT PATH RATE_PER_SECOND WARM_UP_SECONDS SECONDS CONNECTIONS      (prints one JSON object)
//
// It sleeps between requests instead of spinning, because it shares its core with the backend.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, HEAD_BYTES = 4096 };
#define SECOND UINT64_C(1000000000)
#define GRACE (5 * SECOND)   // how long answers may still arrive after the last request

typedef struct {
    int fd;
    bool busy;
    uint64_t due, sent;
    uint32_t used;
    uint64_t body_left;
    char head[HEAD_BYTES];
} Connection;

static char sink[256 << 10];
static uint64_t unexpected;   // answers that are not a 200 with Content-Length, and connections closed

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile_us(const uint32_t *sorted, size_t n, double q) {
    if (!n)
        return 0;
    size_t at = (size_t)(q * (double)n);
    return sorted[at < n ? at : n - 1] / 1000.0;
}

// Reads what has arrived. True: the answer is complete.
static bool read_answer(Connection *c) {
    while (c->body_left) {
        ssize_t n = recv(c->fd, sink, c->body_left < sizeof sink ? c->body_left : sizeof sink, 0);
        if (n <= 0) {
            unexpected += n == 0 || errno != EAGAIN;
            return false;
        }
        c->body_left -= (uint64_t)n;
        if (!c->body_left)
            return true;
    }
    for (;;) {
        ssize_t n = recv(c->fd, c->head + c->used, HEAD_BYTES - 1 - c->used, 0);
        if (n <= 0) {
            unexpected += n == 0 || errno != EAGAIN;
            return false;
        }
        c->used += (uint32_t)n;
        c->head[c->used] = 0;
        char *end = memmem(c->head, c->used, "\r\n\r\n", 4);
        if (!end) {
            unexpected += c->used == HEAD_BYTES - 1;
            continue;
        }
        char *length = strcasestr(c->head, "\r\nContent-Length:");
        if (strncmp(c->head, "HTTP/1.1 200", 12) || !length) {
            unexpected++;
            return false;
        }
        uint64_t total = strtoull(length + 17, NULL, 10), have = c->used - (uint64_t)(end + 4 - c->head);
        c->used = 0;
        c->body_left = have < total ? total - have : 0;
        return c->body_left ? read_answer(c) : true;
    }
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: openloop ADDRESS PORT PATH RATE WARM_UP SECONDS CONNECTIONS\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        die(argv[1]);
    double rate = atof(argv[4]), warm_up = atof(argv[5]), seconds = atof(argv[6]);
    int n_connections = atoi(argv[7]), on = 1, epoll = epoll_create1(EPOLL_CLOEXEC);
    char request[1024];
    size_t request_bytes = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", argv[3], argv[1], argv[2]);
    uint64_t n_warm_up = (uint64_t)(rate * warm_up), n_total = n_warm_up + (uint64_t)(rate * seconds);
    Connection *connections = calloc((size_t)n_connections, sizeof *connections);
    Connection **free_list = calloc((size_t)n_connections, sizeof *free_list);
    uint32_t *from_schedule = malloc((n_total + 1) * sizeof *from_schedule), *from_send = malloc((n_total + 1) * sizeof *from_send);
    if (!connections || !free_list || !from_schedule || !from_send)
        die("malloc");
    prctl(PR_SET_TIMERSLACK, 1);
    int n_free = 0;
    for (int i = 0; i < n_connections; i++) {
        Connection *c = &connections[i];
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
            die("connect");
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = c};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
            die("epoll_ctl");
        free_list[n_free++] = c;
    }

    uint64_t start = now_ns(), now = start, n_sent = 0, n_done = 0, n_kept = 0, n_waited = 0;
    uint64_t deadline = start + (uint64_t)((warm_up + seconds) * SECOND) + GRACE;
    struct epoll_event events[EVENTS];
    while (n_done < n_total && !unexpected && now < deadline) {
        uint64_t due = 0;
        while (n_sent < n_total && n_free) {
            due = start + (uint64_t)((double)n_sent * SECOND / rate);
            if (due > now)
                break;
            Connection *c = free_list[--n_free];
            c->due = due;
            c->sent = now_ns();
            c->busy = true;
            if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes)
                unexpected++;
            n_sent++;
            now = now_ns();
        }
        n_waited += n_sent < n_total && !n_free;
        uint64_t wait = n_sent < n_total && n_free ? (due > now ? due - now : 0) : SECOND / 10;
        struct timespec timeout = {.tv_sec = (time_t)(wait / SECOND), .tv_nsec = (long)(wait % SECOND)};
        int n = epoll_pwait2(epoll, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (!c->busy) {
                unexpected++;   // bytes or an end that nobody asked for
                continue;
            }
            if (!read_answer(c))
                continue;
            now = now_ns();
            c->busy = false;
            free_list[n_free++] = c;
            if (n_done++ >= n_warm_up) {
                uint64_t a = now - c->due, b = now - c->sent;
                from_schedule[n_kept] = a > UINT32_MAX ? UINT32_MAX : (uint32_t)a;
                from_send[n_kept++] = b > UINT32_MAX ? UINT32_MAX : (uint32_t)b;
            }
        }
        now = now_ns();
    }
    qsort(from_schedule, n_kept, sizeof *from_schedule, compare);
    qsort(from_send, n_kept, sizeof *from_send, compare);
    printf("{\"rate\": %.1f, \"requests\": %llu, \"unfinished\": %llu, \"errors\": %llu, \"no_free_connection\": %llu, "
           "\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, \"from_send_p50_us\": %.1f}\n",
           rate, (unsigned long long)n_kept, (unsigned long long)(n_total - n_done), (unsigned long long)unexpected,
           (unsigned long long)n_waited, quantile_us(from_schedule, n_kept, 0.5), quantile_us(from_schedule, n_kept, 0.9),
           quantile_us(from_schedule, n_kept, 0.99), quantile_us(from_schedule, n_kept, 0.999), quantile_us(from_schedule, n_kept, 1),
           quantile_us(from_send, n_kept, 0.5));
    return unexpected || n_done < n_total;
}
