// A client whose every request has a TLS 1.3 handshake of its own: connect, shake hands, one GET, read to the end, close.
//
//   handshakes ADDRESS PORT PATH CONNECTIONS full|resumed RATE_PER_SECOND      (prints one JSON object after SIGINT)
//
// RATE 0: CONNECTIONS of them at a time, each followed by the next. Otherwise they begin on a fixed schedule, whatever the answers do, as
// long as CONNECTIONS are enough. "resumed": each of the CONNECTIONS keeps the newest session that it was given and takes it up the next time; the
// first handshake of each is full, and so is one whose session the server does not want. "full": sessions are read and thrown away.
//
// The same for every server: it offers what OpenSSL offers by itself, TLS 1.3 with AES-128-GCM, the name bench.example and no ALPN; nobody's
// certificate is verified, so that the client costs little. A latency is from connect to the end of the answer; with a rate from the moment
// that the schedule named.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, MAX_ANSWER = 4096, MAX_KEPT = 1 << 22 };
#define SECOND UINT64_C(1000000000)
#define LONGEST (5 * SECOND)

typedef struct {
    SSL *ssl;                 // NULL: nothing is under way
    SSL_SESSION *session;     // owned; what the next handshake takes up
    int fd;
    bool asked;
    uint64_t began;
    uint32_t used;
    char answer[MAX_ANSWER];
} Connection;

static struct sockaddr_in address;
static SSL_CTX *context;
static int epoll;
static char request[1024];
static bool resumes;
static uint64_t n_requests, n_full, n_resumed, n_errors;
static uint32_t *latencies;
static size_t n_latencies;
static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

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

static uint32_t quantile_us(double q) {
    size_t at = (size_t)(q * (double)n_latencies);
    return n_latencies ? latencies[at < n_latencies ? at : n_latencies - 1] : 0;
}

static int keep_session(SSL *ssl, SSL_SESSION *session) {
    Connection *c = SSL_get_app_data(ssl);
    SSL_SESSION_free(c->session);
    c->session = session;
    return 1;
}

static void begin(Connection *c, uint64_t due) {
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->ssl = SSL_new(context);
    if (c->fd < 0 || !c->ssl)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->asked = false;
    c->used = 0;
    c->began = due;
    SSL_set_app_data(c->ssl, c);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, "bench.example");
    SSL_set_connect_state(c->ssl);
    if (c->session)
        SSL_set_session(c->ssl, c->session);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        die("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
}

static void end(Connection *c, bool right) {
    if (right) {
        uint64_t took = (now_ns() - c->began) / 1000;
        n_requests++;
        if (n_latencies < MAX_KEPT)
            latencies[n_latencies++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    } else {
        n_errors++;
        SSL_SESSION_free(c->session);
        c->session = NULL;
    }
    SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);   // its session stays good
    SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->fd);
    ERR_clear_error();
}

static bool is_answer(Connection *c) {
    c->answer[c->used] = 0;
    char *body = memmem(c->answer, c->used, "\r\n\r\n", 4), *length = strcasestr(c->answer, "\r\nContent-Length:");
    return body && length && !strncmp(c->answer, "HTTP/1.1 200", 12) && SSL_version(c->ssl) == TLS1_3_VERSION
        && strtoull(length + 17, NULL, 10) == c->used - (uint64_t)(body + 4 - c->answer);
}

// Goes on with a connection. True: it has ended, one way or the other.
static bool go_on(Connection *c) {
    int result = 0, error = SSL_ERROR_NONE;
    if (!c->asked) {
        result = SSL_do_handshake(c->ssl);
        if (result == 1) {
            int size = (int)strlen(request);
            c->asked = true;
            n_resumed += SSL_session_reused(c->ssl) == 1;
            n_full += SSL_session_reused(c->ssl) != 1;
            result = SSL_write(c->ssl, request, size) == size;
        }
        error = result == 1 ? SSL_ERROR_NONE : SSL_get_error(c->ssl, result);
    }
    while (error == SSL_ERROR_NONE && c->asked) {
        result = SSL_read(c->ssl, c->answer + c->used, MAX_ANSWER - 1 - (int)c->used);
        if (result > 0)
            c->used += (uint32_t)result;
        else
            error = SSL_get_error(c->ssl, result);
    }
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return false;
    end(c, error == SSL_ERROR_ZERO_RETURN && is_answer(c));
    return true;
}

int main(int argc, char **argv) {
    if (argc != 7 || (strcmp(argv[5], "full") && strcmp(argv[5], "resumed"))) {
        fprintf(stderr, "usage: handshakes ADDRESS PORT PATH CONNECTIONS full|resumed RATE\n");
        return 2;
    }
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        die(argv[1]);
    int n_connections = atoi(argv[4]), n_free = 0;
    double rate = atof(argv[6]);
    resumes = !strcmp(argv[5], "resumed");
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n", argv[3], argv[1], argv[2]);
    context = SSL_CTX_new(TLS_client_method());
    if (!context || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1
        || SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") != 1) {
        ERR_print_errors_fp(stderr);
        return 1;
    }
    SSL_CTX_set_session_cache_mode(context, resumes ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL : SSL_SESS_CACHE_OFF);
    if (resumes)
        SSL_CTX_sess_set_new_cb(context, keep_session);
    Connection *connections = calloc((size_t)n_connections, sizeof *connections);
    Connection **free_list = calloc((size_t)n_connections, sizeof *free_list);
    latencies = malloc(MAX_KEPT * sizeof *latencies);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || !free_list || !latencies || epoll < 0)
        die("start");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, stop);
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < n_connections; i++)
        free_list[n_free++] = &connections[i];

    uint64_t start = now_ns(), now = start, look = start, n_begun = 0, n_late = 0;
    struct epoll_event events[EVENTS];
    while (!stopped && !n_errors) {
        uint64_t due = now;
        while (n_free) {
            if (rate > 0) {
                due = start + (uint64_t)((double)n_begun * SECOND / rate);
                if (due > now)
                    break;
            }
            begin(free_list[--n_free], rate > 0 ? due : now_ns());
            n_begun++;
        }
        n_late += rate > 0 && !n_free;   // the schedule is not kept
        uint64_t wait = rate > 0 && n_free ? (due > now ? due - now : 0) : SECOND / 10;
        struct timespec timeout = {.tv_sec = (time_t)(wait / SECOND), .tv_nsec = (long)(wait % SECOND)};
        int n = epoll_pwait2(epoll, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (c->ssl && go_on(c))
                free_list[n_free++] = c;
        }
        now = now_ns();
        if (now >= look) {
            look = now + SECOND / 10;
            for (int i = 0; i < n_connections; i++)
                n_errors += connections[i].ssl && now > connections[i].began + LONGEST;
        }
    }
    double seconds = (double)(now_ns() - start) / 1e9;
    qsort(latencies, n_latencies, sizeof *latencies, compare);
    printf("{\"requests\": %llu, \"full\": %llu, \"resumed\": %llu, \"errors\": %llu, \"no_free_connection\": %llu, "
           "\"requests_per_second\": %.1f, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n",
           (unsigned long long)n_requests, (unsigned long long)n_full, (unsigned long long)n_resumed, (unsigned long long)n_errors,
           (unsigned long long)n_late, (double)n_requests / seconds, quantile_us(0.5), quantile_us(0.99), quantile_us(1));
    return n_errors != 0;
}
