/* A load generator that is not itself the bottleneck: many connections, one thread, epoll.
 *
 *   load ADDRESS REQUEST_FILE CONNECTIONS SECONDS RATE REPLY_BYTES
 *
 * ADDRESS: a TCP port on 127.0.0.1, or the path of a unix socket. REQUEST_FILE: the bytes of one request.
 * RATE 0: each connection asks as soon as it is answered. Else so many requests a second, evenly spaced, are due whether
 * or not earlier ones are answered, and an answer's time counts from when its request was due.
 * REPLY_BYTES 0: answers are HTTP/1.1 with a Content-Length; else an answer is that many bytes, whatever they say.
 * A connection that the server closes is opened again, which is a failure only while an answer is due; when the server
 * takes none any more, or at SIGTERM, the run is over. Prints JSON; times in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192, MAX_SAMPLES = 1 << 22, MAX_CONNECTIONS = 1024 };

typedef struct {
    int fd, busy, ok, closes;
    size_t sent, got, wanted; /* wanted: bytes of the whole answer, 0 while its head is incomplete */
    double due;
    char head[HEAD_BYTES + 1];
} Connection;

static const char *address, *request;
static size_t request_bytes, reply_bytes;
static int poller;
static Connection connections[MAX_CONNECTIONS];
static float *samples;
static long answered, failed, reopened;
static volatile sig_atomic_t over;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void finish(int number) {
    (void)number;
    over = 1;
}

static int dial(void) { /* -1: nobody takes it */
    int fd, one = 1, done;
    if (address[0] == '/') {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        strncpy(to.sun_path, address, sizeof to.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        done = connect(fd, (struct sockaddr *)&to, sizeof to);
    } else {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(address))};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        done = connect(fd, (struct sockaddr *)&to, sizeof to);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    if (done) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void watch(Connection *c, int how, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, how, c->fd, &event);
}

static void push(Connection *c) { /* what is left of the request */
    while (c->sent < request_bytes) {
        ssize_t n = write(c->fd, request + c->sent, request_bytes - c->sent);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return; /* an error shows in the read, too */
        }
        c->sent += n;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void ask(Connection *c, double due) {
    c->busy = 1, c->ok = 1, c->closes = 0, c->due = due, c->sent = c->got = 0, c->wanted = reply_bytes;
    push(c);
}

static void end(Connection *c, int ok) {
    c->busy = 0;
    if (!ok) failed++;
    else if (answered < MAX_SAMPLES) samples[answered++] = now() - c->due;
}

static void reopen(Connection *c) {
    if (c->busy) end(c, 0);
    close(c->fd);
    reopened++;
    c->fd = dial();
    if (c->fd < 0) {
        over = 1;
        return;
    }
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static int head(Connection *c) { /* 0: not yet whole; -1: nonsense */
    c->head[c->got < HEAD_BYTES ? c->got : HEAD_BYTES] = 0;
    char *blank = strstr(c->head, "\r\n\r\n"), *length = strcasestr(c->head, "content-length:");
    if (!blank) return c->got < HEAD_BYTES ? 0 : -1;
    if (!length || length > blank) return -1;
    char *connection = strcasestr(c->head, "\r\nconnection: close");
    c->closes = connection && connection < blank;
    c->ok = !strncmp(c->head, "HTTP/1.1 200", 12);
    c->wanted = blank + 4 - c->head + strtoul(length + 15, NULL, 10);
    return 1;
}

static void receive(Connection *c) {
    static char rest[1 << 18];
    for (;;) {
        int in_head = !c->wanted;
        ssize_t n = in_head ? read(c->fd, c->head + c->got, HEAD_BYTES - c->got) : read(c->fd, rest, sizeof rest);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0 || !c->busy) {
            reopen(c);
            return;
        }
        c->got += n;
        if (in_head && head(c) < 0) {
            reopen(c);
            return;
        }
        if (c->wanted && c->got >= c->wanted) {
            end(c, c->ok && c->got == c->wanted);
            if (c->closes) reopen(c);
            return;
        }
    }
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double at(double percent) {
    long i = answered * percent / 100;
    return answered ? samples[i < answered ? i : answered - 1] : 0;
}

int main(int argc, char **argv) {
    if (argc != 7) return fprintf(stderr, "load ADDRESS REQUEST_FILE CONNECTIONS SECONDS RATE REPLY_BYTES\n"), 2;
    address = argv[1];
    int count = atoi(argv[3]);
    double seconds = atof(argv[4]), rate = atof(argv[5]);
    reply_bytes = atol(argv[6]);
    FILE *file = fopen(argv[2], "rb");
    if (!file || count < 1 || count > MAX_CONNECTIONS) return fprintf(stderr, "load: bad arguments\n"), 2;
    fseek(file, 0, SEEK_END);
    request_bytes = ftell(file);
    rewind(file);
    char *content = malloc(request_bytes);
    if (fread(content, 1, request_bytes, file) != request_bytes) return 2;
    request = content;
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    poller = epoll_create1(0);
    signal(SIGTERM, finish);
    signal(SIGPIPE, SIG_IGN);
    setpriority(PRIO_PROCESS, 0, -10); /* if it may: its own lateness would count as the server's */
    prctl(PR_SET_TIMERSLACK, 1UL); /* or the kernel wakes it up to 50 us after a request is due */
    for (int i = 0; i < count; i++) {
        connections[i].fd = dial();
        if (connections[i].fd < 0) return fprintf(stderr, "load: cannot connect to %s: %s\n", address, strerror(errno)), 1;
        watch(&connections[i], EPOLL_CTL_ADD, EPOLLIN);
    }
    double start = now(), stop = start + seconds * 1e6, next = start, t;
    struct epoll_event events[64];
    while (!over && (t = now()) < stop) {
        for (int i = 0; i < count; i++) {
            if (connections[i].busy) continue;
            if (!rate) ask(&connections[i], t);
            else if (next <= t) ask(&connections[i], next), next += 1e6 / rate;
        }
        struct timespec pause = {0, 1000000}; /* 1 ms, or until the next is due */
        if (rate && next - t < 1000) pause.tv_nsec = next > t ? (next - t) * 1000 : 50000;
        int n = epoll_pwait2(poller, events, 64, &pause, NULL);
        for (int i = 0; i < n && !over; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (events[i].events & ~EPOLLOUT) receive(c);
        }
    }
    double taken = (now() - start) / 1e6;
    qsort(samples, answered, sizeof *samples, ascending);
    printf("{\"answered\": %ld, \"failed\": %ld, \"reopened\": %ld, \"per_second\": %.1f, \"p50\": %.1f, \"p90\": %.1f, "
           "\"p99\": %.1f, \"max\": %.1f}\n",
           answered, failed, reopened, answered / taken, at(50), at(90), at(99), at(100));
    return 0;
}
