// Both ends of the UDP work: a backend that echoes, and clients of which each has one datagram under way.
//
//   udpecho serve ADDRESS PORT
//   udpecho ask ADDRESS PORT CLIENTS BYTES WARM_UP_SECONDS SECONDS
//
// `ask` prints "begin" when the warm-up is over, and "end ANSWERS LOST" when the time is. A datagram without an answer within a second is lost
// and asked again.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, ROOM = 2048, EVENTS = 256 };
#define SECOND UINT64_C(1000000000)

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        die(host);
    return address;
}

_Noreturn static void serve(const char *host, const char *port) {
    static char data[BATCH][ROOM];
    static struct sockaddr_in names[BATCH];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    struct sockaddr_in address = address_of(host, port);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        die("bind");
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){data[i], ROOM};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &names[i], .msg_namelen = sizeof(names[i]), .msg_iov = &parts[i], .msg_iovlen = 1};
        }
        int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            die("recvmmsg");
        }
        for (int i = 0; i < n; i++)
            parts[i].iov_len = messages[i].msg_len;
        for (int at = 0; at < n;) {
            int sent = sendmmsg(fd, messages + at, (unsigned)(n - at), 0);
            at += sent > 0 ? sent : 1;
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "serve") == 0)
        serve(argv[2], argv[3]);
    if (argc != 8 || strcmp(argv[1], "ask") != 0) {
        fprintf(stderr, "see the head of udpecho.c\n");
        return 2;
    }
    struct sockaddr_in address = address_of(argv[2], argv[3]);
    int n = atoi(argv[4]), bytes = atoi(argv[5]), epoll = epoll_create1(0);
    uint64_t warm_up = (uint64_t)(atof(argv[6]) * (double)SECOND), length = (uint64_t)(atof(argv[7]) * (double)SECOND);
    int *fds = calloc((size_t)n, sizeof(*fds));
    uint64_t *asked = calloc((size_t)n, sizeof(*asked));
    static char question[ROOM], answer[ROOM];
    memset(question, 'x', sizeof(question));
    for (int i = 0; i < n; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (fds[i] < 0 || connect(fds[i], (struct sockaddr *)&address, sizeof(address)) != 0)
            die("connect");
        epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event);
        asked[i] = now_ns();
        send(fds[i], question, (size_t)bytes, 0);
    }
    uint64_t started = now_ns(), begun = 0, answers = 0, lost = 0, looked = started;
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, 100);
        uint64_t now = now_ns();
        if (!begun && now - started >= warm_up) {
            begun = now;
            answers = lost = 0;
            printf("begin\n");
            fflush(stdout);
        }
        if (begun && now - begun >= length) {
            printf("end %llu %llu\n", (unsigned long long)answers, (unsigned long long)lost);
            fflush(stdout);
            return 0;
        }
        for (int k = 0; k < ready; k++) {
            uint32_t i = events[k].data.u32;
            if (recv(fds[i], answer, sizeof(answer), 0) != bytes)
                continue;
            answers++;
            asked[i] = now;
            send(fds[i], question, (size_t)bytes, 0);
        }
        if (now - looked > SECOND / 4) {
            looked = now;
            for (int i = 0; i < n; i++)
                if (now - asked[i] > SECOND) {
                    lost++;
                    asked[i] = now;
                    send(fds[i], question, (size_t)bytes, 0);
                }
        }
    }
}
