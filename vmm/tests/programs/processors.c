/* Threads on several processors at once. Usage: WHAT. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static volatile int begun, stop, seen;

static pthread_t start(void *(*function)(void *))
{
    pthread_t thread;
    if (pthread_create(&thread, 0, function, 0)) { puts("no thread"); _exit(9); }
    return thread;
}

static long join(pthread_t thread)
{
    void *result;
    pthread_join(thread, &result);
    return (long)result;
}

static void spend(int count)
{
    for (volatile int n = 0; n < count; n++) ;
}

/* Never leaves its processor by itself. */
static void *computes(void *unused)
{
    begun = 1;
    while (!stop) ;
    return 0;
}

/* One computes, and another has it come. */
static void call(void)
{
    pthread_t other = start(computes);
    while (!begun) sched_yield();
    puts("ready");
    fflush(stdout);
    getchar();
    /* PRIVATE_EXPEDITED, and before that what it takes. */
    long registered = syscall(SYS_membarrier, 16, 0);
    printf("barrier %ld\n", registered + syscall(SYS_membarrier, 8, 0));
    stop = 1;
    join(other);
}

static void *looks(void *unused)
{
    unsigned first, now;
    syscall(SYS_getcpu, &first, 0, 0);
    for (long n = 0; n < 100000 && !seen; n++) {
        syscall(SYS_getcpu, &now, 0, 0);
        if (now != first) seen = 1;
    }
    return 0;
}

/* One computes alone when two more begin, which look for its processor. */
static void share(void)
{
    struct timespec soon = {0, 20000000};
    pthread_t other = start(computes), others[2];
    while (!begun) sched_yield();
    nanosleep(&soon, 0);
    for (int n = 0; n < 2; n++) others[n] = start(looks);
    for (int n = 0; n < 2; n++) join(others[n]);
    stop = 1;
    join(other);
    printf("seen %d\n", seen);
}

static volatile unsigned *word;
static void *adds(void *unused)
{
    long count = 0;
    for (; !stop; count++) {
        __sync_fetch_and_add(word, 1);
        spend(500);
    }
    return (void *)count;
}

/* A call adds to a word of a file while another thread does. */
static void sum(void)
{
    enum { ROUNDS = 3000, WAKE_OP = 5, ADD = 1 };
    int file = open("/data/file", O_RDWR);
    word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (word == MAP_FAILED) { puts("no word"); return; }
    pthread_t other = start(adds);
    while (!*word) sched_yield();
    for (int n = 0; n < ROUNDS; n++) syscall(SYS_futex, word + 1, WAKE_OP, 0, 0, word, ADD << 28 | 1 << 12);
    stop = 1;
    unsigned right = join(other) + ROUNDS;
    printf("lost %d\n", (int)(right - *word));
}

static struct pollfd asked = {-1, 0, 0};
static volatile int made;
static void *polls(void *unused)
{
    for (begun = 1; !stop; made++) poll(&asked, 1, 0);
    return 0;
}

/* What is asked for changes while a call reads it. */
static void ask(void)
{
    long lost = 0;
    pthread_t other = start(polls);
    while (!begun) sched_yield();
    for (int n = 0; made < 5000; n++) {
        *(volatile short *)&asked.events = n;
        spend(500);
        lost += *(volatile short *)&asked.events != (short)n;
    }
    stop = 1;
    join(other);
    printf("lost %ld\n", lost);
}

static struct linger lingers = {1, 0};
static void *turns(void *unused)
{
    begun = 1;
    while (!stop) *(volatile int *)&lingers.l_linger ^= 5;
    return 0;
}

/* A close that would wait is not to be had by changing its time while it is looked at. */
static void linger(void)
{
    int pair[2], waits = 0;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pthread_t other = start(turns);
    while (!begun) sched_yield();
    for (int n = 0; n < 20000; n++) {
        struct linger found = {0, 0};
        socklen_t length = sizeof found;
        if (setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &lingers, sizeof lingers)) continue;
        getsockopt(pair[0], SOL_SOCKET, SO_LINGER, &found, &length);
        waits += found.l_linger != 0;
    }
    stop = 1;
    join(other);
    printf("waits %d\n", waits);
}

static int number(void)
{
    unsigned now = 0;
    syscall(SYS_getcpu, &now, 0, 0);
    return now;
}

/* What RDTSCP tells, and RDPID where there is that instruction. */
static int number_of_processor(void)
{
    unsigned number;
    __rdtscp(&number);
    return number & 0xfff;
}

/* The C library asks the vdso, and that the processor. */
static void *asks(void *unused)
{
    long wrong = 0;
    for (int n = 0; n < 2000; n++) {
        int tries = 3, same;
        do {
            int before = number(), vdso = sched_getcpu(), own = number_of_processor();
            same = before != number() || (vdso == before && own == before);
        } while (!same && --tries);
        wrong += !same;
    }
    return (void *)wrong;
}

/* Which processor it is they say as calls do. */
static void told(void)
{
    pthread_t others[2];
    long wrong = 0;
    for (int n = 0; n < 2; n++) others[n] = start(asks);
    for (int n = 0; n < 2; n++) wrong += join(others[n]);
    printf("wrong %ld\n", wrong);
}

enum { BOUND = 10 };
static struct pollfd all[BOUND];
static void *waits(void *unused)
{
    begun = 1;
    return (void *)(long)poll(all, BOUND, -1);
}

/* One waits for as many descriptors as there may be, and another tries to make more. */
static void bound(void)
{
    int pair[2], last, more = 0;
    struct rlimit few;
    pipe(pair);
    while ((last = dup(pair[0])) < BOUND - 1) ;
    getrlimit(RLIMIT_NOFILE, &few);
    few.rlim_cur = BOUND;
    setrlimit(RLIMIT_NOFILE, &few);
    for (int n = 0; n < BOUND; n++) all[n] = (struct pollfd){n, n > pair[1] ? POLLIN : 0, 0};
    pthread_t other = start(waits);
    while (!begun) sched_yield();
    for (int n = 0; n < 20000; n++) {
        int made = dup(0);
        if (made < 0) continue;
        more++;
        close(made);
    }
    write(pair[1], "", 1);
    printf("woken %ld, more %d\n", join(other), more);
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "call")) call();
    if (!strcmp(what, "share")) share();
    if (!strcmp(what, "sum")) sum();
    if (!strcmp(what, "ask")) ask();
    if (!strcmp(what, "linger")) linger();
    if (!strcmp(what, "told")) told();
    if (!strcmp(what, "bound")) bound();
    return 0;
}
