/* Calls that wait while another thread changes what they have read: the kernel goes by what was there when they began. Which came first is seen
 * by what they return, so each is tried until the other thread was late enough. In the directory of the first argument. */
#include "told.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>

enum { TRIES = 60, LARGE = 1 << 20 };

static volatile int waits;
static char last;
static int try, first[2], second[2], file, other;
static char *pages, x[LARGE], y[LARGE];

/* What another thread does once this one is about to wait, and has had ever more time for it. */
static void (*then)(void);

static void *changes(void *none)
{
    while (!waits) usleep(100);
    usleep(2000 << (try < 6 ? try : 6));
    then();
    return 0;
}

#define RECORD(type) (*(volatile type *)pages)
#define RECORD_64(type) (*(volatile type *)(pages + 64))

/* What `call` returns, and whether `good` holds then. */
#define COPIED(what, prepare, change, call, good) do { \
        void changed(void) { change; } \
        int copied = 0; \
        for (try = 0; try < TRIES && !copied; try++) { \
            pthread_t thread; \
            start(); \
            prepare; \
            then = changed; \
            waits = 0; \
            pthread_create(&thread, 0, changes, 0); \
            waits = 1; \
            long value = call; \
            pthread_join(thread, 0); \
            copied = good; \
        } \
        printf("%s %s\n", what, copied ? "copied" : "read again"); \
        fflush(stdout); \
    } while (0)

static void start(void)
{
    for (int i = 0; i < 2; i++) {
        if (first[i]) close(first[i]);
        if (second[i]) close(second[i]);
    }
    pipe(first);
    pipe(second);
    pages = mmap(pages, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (pages ? MAP_FIXED : 0), -1, 0);
    memset(x, 'x', LARGE);
    memset(y, 'y', LARGE);
}

static void both(void)
{
    write(second[1], "2", 1);
    write(first[1], "1", 1);
}

/* Takes all of a large write; the last byte. */
static char drained(int descriptor, long size)
{
    static char bytes[65536];
    char last = 0;
    while (size > 0) {
        long length = read(descriptor, bytes, sizeof bytes < size ? sizeof bytes : size);
        if (length <= 0) return '?';
        last = bytes[length - 1];
        size -= length;
    }
    return last;
}

static void connected(void)
{
    struct sockaddr_in name = {AF_INET};
    socklen_t length = sizeof name;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (void *)&name, length);
    listen(listener, 1);
    getsockname(listener, (void *)&name, &length);
    close(first[0]);
    close(first[1]);
    first[1] = socket(AF_INET, SOCK_STREAM, 0);
    connect(first[1], (void *)&name, length);
    first[0] = accept(listener, 0, 0);
    close(listener);
}

static void paired(void)
{
    close(first[0]);
    close(first[1]);
    socketpair(AF_UNIX, SOCK_STREAM, 0, first);
}

static void full(void)
{
    fcntl(first[1], F_SETFL, O_NONBLOCK);
    while (write(first[1], y, 65536) > 0) {}
    fcntl(first[1], F_SETFL, 0);
}

static char taken[65536];
static char rest(void)
{
    char last = 0;
    long length;
    fcntl(first[0], F_SETFL, O_NONBLOCK);
    while ((length = read(first[0], taken, sizeof taken)) > 0) last = taken[length - 1];
    return last;
}

static int holds(int descriptor, long at)
{
    struct flock lock = {F_WRLCK, SEEK_SET, at, 1};
    return fcntl(descriptor, F_OFD_SETLK, &lock) < 0;
}

static void frees(int descriptor)
{
    struct flock all = {F_UNLCK, SEEK_SET, 0, 0};
    fcntl(descriptor, F_OFD_SETLK, &all);
}

static void signals(void)
{
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR2);
}

#define VECTOR RECORD(struct iovec)
#define MESSAGE RECORD_64(struct msghdr)
/* One that lies there. */
#define LAID (MESSAGE = (struct msghdr){.msg_iov = (void *)pages, .msg_iovlen = 1})

int main(int count, char **arguments)
{
    char path[300];
    sprintf(path, "%s/file", arguments[1]);
    file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    other = open(path, O_RDWR);
    write(file, "0123456789", 10);
    sigset_t users;
    sigemptyset(&users);
    sigaddset(&users, SIGUSR1);
    sigaddset(&users, SIGUSR2);
    sigprocmask(SIG_BLOCK, &users, 0);

    COPIED("poll", RECORD(struct pollfd) = ((struct pollfd){first[0], POLLIN}),
        (RECORD(struct pollfd) = (struct pollfd){77, POLLIN}, both()),
        poll((void *)pages, 1, -1), value == 1 && RECORD(struct pollfd).revents == POLLIN);
    COPIED("ppoll", (RECORD(struct pollfd) = ((struct pollfd){first[0], POLLIN}), RECORD_64(struct timespec) = (struct timespec){60, 0}),
        (RECORD_64(struct timespec) = (struct timespec){60, -1}, both()),
        syscall(SYS_ppoll, pages, 1, pages + 64, 0, 8), value == 1);
    COPIED("select", RECORD(uint64_t) = 1ul << first[0],
        (RECORD(uint64_t) = 1ul << second[0], both()),
        select(second[1] + 1, (void *)pages, 0, 0, 0), value == 1 && RECORD(uint64_t) == 1ul << first[0]);
    COPIED("readv", VECTOR = ((struct iovec){x, 1}),
        (VECTOR = (struct iovec){y, 1}, both()),
        readv(first[0], (void *)pages, 1), value == 1 && x[0] == '1');
    COPIED("preadv2", VECTOR = ((struct iovec){x, 1}),
        (VECTOR = (struct iovec){0, 1}, both()),
        syscall(SYS_preadv2, first[0], pages, 1, -1l, -1l, 0), value == 1 && x[0] == '1');
    COPIED("writev", VECTOR = ((struct iovec){x, LARGE}),
        (VECTOR = (struct iovec){y, LARGE}, last = drained(first[0], LARGE)),
        writev(first[1], (void *)pages, 1), value == LARGE && last == 'x');
    COPIED("recvmsg", (paired(), VECTOR = ((struct iovec){x, 1}), LAID),
        (VECTOR = (struct iovec){y, 1}, both()),
        recvmsg(first[0], (void *)(pages + 64), 0), value == 1 && x[0] == '1');
    COPIED("recvmmsg", (paired(), VECTOR = ((struct iovec){x, 1}), LAID),
        (MESSAGE.msg_iovlen = 2000, both()),
        recvmmsg(first[0], (void *)(pages + 64), 1, 0, 0), value == 1 && x[0] == '1');
    COPIED("sendmsg", (paired(), VECTOR = ((struct iovec){x, LARGE}), LAID),
        (VECTOR = (struct iovec){y, LARGE}, last = drained(first[0], LARGE)),
        sendmsg(first[1], (void *)(pages + 64), 0), value == LARGE && last == 'x');
    COPIED("sigtimedwait", RECORD(uint64_t) = 1 << (SIGUSR2 - 1),
        (RECORD(uint64_t) = 1 << (SIGUSR1 - 1), signals()),
        syscall(SYS_rt_sigtimedwait, pages, 0, 0, 8), (syscall(SYS_rt_sigtimedwait, &users, 0, &(struct timespec){0}, 8), value == SIGUSR2));
    COPIED("lock", (frees(file), frees(other), holds(other, 0), RECORD(struct flock) = ((struct flock){F_WRLCK, SEEK_SET, 0, 1})),
        (RECORD(struct flock) = ((struct flock){F_WRLCK, SEEK_SET, 100, 1}), frees(other)),
        fcntl(file, F_OFD_SETLKW, pages), value == 0 && holds(other, 0) && !holds(other, 100));
    COPIED("sleep", (clock_gettime(CLOCK_MONOTONIC, (void *)pages), RECORD(struct timespec).tv_nsec += 500000000, RECORD(struct timespec).tv_sec += RECORD(struct timespec).tv_nsec / 1000000000, RECORD(struct timespec).tv_nsec %= 1000000000),
        RECORD(struct timespec).tv_nsec = -1,
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, (void *)pages, 0), value == 0);
    COPIED("splice", (full(), RECORD(loff_t) = 3),
        (RECORD(loff_t) = 7, drained(first[0], 65536)),
        splice(file, (void *)pages, first[1], 0, 1, 0), value == 1 && rest() == '3');
    COPIED("sendfile", (full(), RECORD(loff_t) = 3),
        (RECORD(loff_t) = 7, drained(first[0], 65536)),
        sendfile(first[1], file, (void *)pages, 1), value == 1 && rest() == '3');
    /* It has seen two bytes when its buffer goes. */
    COPIED("peeked", (connected(), write(first[1], "ab", 2)),
        (munmap(pages, 8192), both()),
        recv(first[0], pages, 8, MSG_PEEK | MSG_WAITALL), value == 2);
    return 0;
}
