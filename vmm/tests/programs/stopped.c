/* Waits in many calls at once, one thread each, and says which of them have ended. Usage: WHAT-IS-SAID-WHEN-SO-MANY-HAVE [MILLISECONDS], which is as long as
   those wait that have a limit. The others are not made then. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int limit = 1000000;
static struct timespec span;
static struct timeval socket_span;
enum { FUTEX_WAIT = 0 };
static char bytes[1 << 20];
static int silent[2], word;

/* These a stop ends. */
static long epoll_waits(void) { struct epoll_event e; return epoll_wait(epoll_create1(0), &e, 1, -1); }
static long epoll_waits_for_a_while(void) { struct epoll_event e; return epoll_wait(epoll_create1(0), &e, 1, limit); }
static long epoll_pwaits(void)
{
    struct epoll_event e;
    sigset_t set;
    sigfillset(&set);
    return epoll_pwait(epoll_create1(0), &e, 1, -1, &set);
}
static long signals_are_waited_for(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    return syscall(SYS_rt_sigtimedwait, &set, 0, &span, 8);
}
static int limited(int option)
{
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    setsockopt(s[0], SOL_SOCKET, option, &socket_span, sizeof socket_span);
    return s[0];
}
static long receives(void) { return recv(limited(SO_RCVTIMEO), bytes, 1, 0); }
static long reads_a_socket(void) { return read(limited(SO_RCVTIMEO), bytes, 1); }
static long sends(void)
{
    int s = limited(SO_SNDTIMEO);
    while (send(s, bytes, 4096, MSG_DONTWAIT) > 0);
    return send(s, bytes, 4096, 0);
}
/* These with what they have moved. */
static long receives_all(void)
{
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[0], "abc", 3);
    return recv(s[1], bytes, 9, MSG_WAITALL);
}
static long writes_more_than_fits(void)
{
    int p[2];
    pipe(p);
    return write(p[1], bytes, sizeof bytes);
}

/* These not. */
static long polls(void) { return poll(&(struct pollfd){silent[0], POLLIN}, 1, -1); }
static long polls_for_a_while(void) { return poll(&(struct pollfd){silent[0], POLLIN}, 1, limit); }
static long selects(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(silent[0], &set);
    return pselect(silent[0] + 1, &set, 0, 0, &span, 0);
}
static long sleeps(void) { return nanosleep(&span, 0); }
static long pauses(void) { return pause(); }
static long suspends(void)
{
    sigset_t set;
    sigfillset(&set);
    return sigsuspend(&set);
}
static long reads(void) { char byte; return read(silent[0], &byte, 1); }
static long reads_a_counter(void) { long count; return read(eventfd(0, 0), &count, 8); }
static long receives_without_limit(void)
{
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    return recv(s[0], bytes, 1, 0);
}
static long waits_for_a_word(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0); }
static long waits_for_a_word_for_a_while(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &span, 0, 0); }

#define CALL(name) {#name, name}
#define LIMITED(name) {#name, name, 1}
static struct {
    const char *name;
    long (*call)(void);
    int has_limit;
    long result;
    int error;
    volatile int ended;
} calls[] = {
    CALL(epoll_waits), LIMITED(epoll_waits_for_a_while), CALL(epoll_pwaits), LIMITED(signals_are_waited_for), LIMITED(receives),
    LIMITED(reads_a_socket), LIMITED(sends), CALL(receives_all), CALL(writes_more_than_fits), CALL(polls), LIMITED(polls_for_a_while),
    LIMITED(selects), LIMITED(sleeps), CALL(pauses), CALL(suspends), CALL(reads), CALL(reads_a_counter), CALL(receives_without_limit),
    CALL(waits_for_a_word), LIMITED(waits_for_a_word_for_a_while),
};
enum { COUNT = sizeof calls / sizeof *calls };

static void *makes(void *which)
{
    int i = (long)which;
    calls[i].result = calls[i].call();
    calls[i].error = errno;
    calls[i].ended = 1;
    return 0;
}

int main(int argc, char **argv)
{
    int is_short = argc > 2;
    sigset_t set;
    pthread_t thread;
    pthread_attr_t small;
    if (is_short) limit = atoi(argv[2]);
    span = (struct timespec){limit / 1000, limit % 1000 * 1000000};
    socket_span = (struct timeval){limit / 1000, limit % 1000 * 1000};
    pipe(silent);
    sigfillset(&set);
    sigdelset(&set, SIGTSTP);
    sigprocmask(SIG_BLOCK, &set, 0);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (long i = 0; i < COUNT; i++)
        if (calls[i].has_limit || !is_short) pthread_create(&thread, &small, makes, (void *)i);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    dprintf(1, "ready\n");
    for (;;) {
        int signal, count = 0;
        sigwait(&set, &signal);
        for (int i = 0; i < COUNT; i++) count += calls[i].ended;
        if (signal == SIGUSR1) dprintf(1, "%d ended\n", count);
        else break;
    }
    for (int i = 0; i < COUNT; i++)
        if (is_short && !calls[i].has_limit) continue;
        else if (!calls[i].ended) dprintf(1, "%s: waits\n", calls[i].name);
        else if (calls[i].result < 0) dprintf(1, "%s: %s\n", calls[i].name, strerror(calls[i].error));
        else dprintf(1, "%s: %s\n", calls[i].name, calls[i].result > 0 ? "in part" : "nothing");
    _exit(5);
}
