/* Threads of a guest that is a process. Usage: WHAT [ARGUMENT]. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define MANY 16
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static volatile long count, turn, stop;
static volatile int tid, handled_by;

static void spawn(pthread_t *threads, int n, void *(*f)(void *)) {
    for (long i = 0; i < n; i++)
        if (pthread_create(&threads[i], 0, f, (void *)i)) { puts("no thread"); exit(9); }
}
static void join(pthread_t *threads, int n) {
    for (int i = 0; i < n; i++) pthread_join(threads[i], 0);
}
static void *in_turn(void *n) {
    for (int round = 0; round < 50; round++) {
        pthread_mutex_lock(&mutex);
        while (turn % MANY != (long)n) pthread_cond_wait(&changed, &mutex);
        turn++;
        count = (count * 31 + (long)n) % 1000003;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return 0;
}
static void *take_and_give(void *n) {
    for (int i = 0; i < 200; i++) {
        char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) { puts("no memory"); exit(9); }
        p[4096] = 1;
        mprotect(p, 4096, PROT_READ);
        munmap(p, 65536);
    }
    return 0;
}
static void *quick(void *n) { __sync_fetch_and_add(&count, 1); return 0; }
static void *tell(void *n) {
    tid = syscall(SYS_gettid);
    while (!stop) sched_yield();
    return 0;
}
static void handler(int s) { handled_by = syscall(SYS_gettid); stop = 1; }
static void *sleeper(void *n) { pause(); return 0; }
static void *spinner(void *n) { for (;;) ; }
static void *fault(void *n) { *(volatile int *)8 = 1; return 0; }
static void *end_all(void *n) { exit(5); }
static void *later(void *first) {
    pthread_join(*(pthread_t *)first, 0);
    char *p = mmap(0, 10 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) exit(8);
    memset(p, 1, 10 << 20);
    exit(7);
}
static volatile int calls[MANY];
static void *ask(void *n) {
    struct utsname u;
    for (;;) { uname(&u); calls[(long)n]++; }
}
/* Holds the pipe until the peer has something to say, which it has not. */
static int pair[2], held[2];
static void *stay(void *n) { for (;;) pause(); }
static void *hold(void *n) { splice(pair[0], 0, held[1], 0, 4096, 0); return 0; }
static void *resize(void *n) {
    int r = fcntl(held[1], F_SETPIPE_SZ, 1 << 17);
    puts(r < 0 ? strerror(errno) : "changed");
    return 0;
}
/* Pipes that are held, the monitor that looks at them all the time, and the guest that lets go of them. */
enum { PIPES = 20, AT = 900 };
static volatile int holding, closing;
static void *hold_one(void *n) {
    int two[2], peers[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, peers);
    pipe(two);
    dup2(two[0], AT + (long)n);
    close(two[0]);
    __sync_fetch_and_add(&holding, 1);
    splice(peers[0], 0, two[1], 0, 4096, 0);
    return 0;
}
static void *close_one(void *n) {
    __sync_fetch_and_add(&closing, 1);
    close(AT + (long)n);
    return 0;
}
static volatile int looked_at;
static void *look(void *n) {
    for (;;) {
        int at = AT + looked_at;
        char path[32];
        struct stat s;
        sprintf(path, "/proc/self/fd/%d", at);
        stat(path, &s);
        fchmod(at, 0600);
    }
}
/* Has connecting wait, whoever does it. */
static volatile int connecting;
static void *wait_for_it(void *n) {
    int no = 0;
    for (;;) ioctl(connecting, FIONBIO, &no);
}
static void *end_soon(void *n) {
    for (volatile long i = 0; i < count; i++) ;
    _exit(5);
}
static void *die_with_lock(void *m) { pthread_mutex_lock(m); return 0; }

/* More memory than was granted: written, and made read-only, which the kernel does not count any more. */
static volatile long kept;
static void *keep(void *n) {
    for (;;) {
        char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return 0;
        memset(p, 1, 1 << 20);
        if (mprotect(p, 1 << 20, PROT_READ)) return 0;
        __sync_fetch_and_add(&kept, 1);
    }
}

/* The descriptor is the guest's own file one moment, and its standard input the next. */
static int own, target, other;
static void *replace(void *n) {
    while (!stop) { dup2(other, target); dup2(own, target); }
    return 0;
}

int main(int argc, char **argv) {
    pthread_t threads[MANY], first = pthread_self();
    const char *what = argv[1];
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!strcmp(what, "turns")) {
        spawn(threads, MANY, in_turn);
        join(threads, MANY);
        printf("%ld turns, %ld\n", turn, count);
    } else if (!strcmp(what, "memory")) {
        spawn(threads, MANY, take_and_give);
        join(threads, MANY);
        puts("done");
    } else if (!strcmp(what, "many")) {
        for (int i = 0; i < 500; i++) { spawn(threads, 2, quick); join(threads, 2); }
        printf("%ld\n", count);
    } else if (!strcmp(what, "numbers")) {
        struct sigaction a = { .sa_handler = handler };
        sigaction(SIGUSR1, &a, 0);
        spawn(threads, 1, tell);
        while (!tid) sched_yield();
        printf("own process: %d\n", getpid() == syscall(SYS_gettid) && tid != getpid());
        clockid_t clock;
        struct timespec t;
        pthread_getcpuclockid(threads[0], &clock);
        printf("its clock: %d\n", clock_gettime(clock, &t));
        cpu_set_t set;
        printf("its processors: %d\n", pthread_getaffinity_np(threads[0], sizeof set, &set));
        int other = atoi(argv[2]);
        printf("another's: %s", syscall(SYS_tkill, other, 0) ? strerror(errno) : "reached");
        printf(", %s", sched_getaffinity(other, sizeof set, &set) ? strerror(errno) : "told");
        printf(", %s\n", clock_gettime(~other << 3 | 2, &t) ? strerror(errno) : "told");
        syscall(SYS_tkill, tid, SIGUSR1);
        join(threads, 1);
        printf("signal by the right one: %d\n", handled_by == tid);
    } else if (!strcmp(what, "limit")) {
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 16384);
        pthread_t one;
        int n = 0, e;
        while (!(e = pthread_create(&one, &small, sleeper, 0))) n++;
        printf("%d, %s\n", n + 1, strerror(e));
        fflush(stdout);
        _exit(0);
    } else if (!strcmp(what, "first-leaves")) {
        spawn(threads, 1, (void *(*)(void *))sched_yield);
        pthread_create(&threads[1], 0, later, &first);
        pthread_exit(0);
    } else if (!strcmp(what, "fault")) {
        spawn(threads, 4, spinner);
        spawn(threads, 1, fault);
        for (;;) pause();
    } else if (!strcmp(what, "group")) {
        spawn(threads, 8, spinner);
        spawn(threads, 1, end_all);
        for (;;) pause();
    } else if (!strcmp(what, "opening")) {
        count = atol(argv[2]);
        spawn(threads, 1, end_soon);
        for (;;) close(open("/dev/null", O_RDWR));
    } else if (!strcmp(what, "zeros")) {
        int zero = open("/dev/zero", O_RDWR), file = open("/data/file", O_RDWR | O_CREAT, 0600);
        own = file;
        target = dup(file);
        ftruncate(file, 4096);
        other = zero;
        puts("replaced");
        spawn(threads, 1, replace);
        for (int i = 0; i < 1000000; i++) {
            void *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, target, 0);
            if (p == MAP_FAILED) { puts("no mapping"); return 9; }
            munmap(p, 4096);
        }
    } else if (!strcmp(what, "named")) {
        mkdir("/data/q ", 0700);
        mkdir("/data/q /dev", 0700);
        int file = open("/data/q /dev/zero", O_RDWR | O_CREAT, 0600);
        ftruncate(file, 4096);
        unlink("/data/q /dev/zero");
        spawn(threads, 1, stay);
        char *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        *at = 5;
        printf("%d\n", *at);
        exit(0);
    } else if (!strcmp(what, "asking")) {
        spawn(threads, MANY, ask);
        for (int i = 0; i < MANY; i++)
            while (calls[i] < 100) usleep(1000);
        puts("all");
        for (;;) pause();
    } else if (!strcmp(what, "pipe")) {
        char one;
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        pipe(held);
        spawn(threads, 1, hold);
        read(0, &one, 1);
        spawn(threads + 1, 1, resize);
        for (;;) pause();
    } else if (!strcmp(what, "closes")) {
        static pthread_t holders[PIPES], closers[PIPES];
        spawn(holders, PIPES, hold_one);
        while (holding < PIPES) usleep(1000);
        usleep(100000);
        spawn(threads, 4, look);
        for (long i = 0; i < PIPES; i++) {
            looked_at = i;
            usleep(1000);
            pthread_create(&closers[i], 0, close_one, (void *)i);
            while (closing <= i) usleep(1000);
        }
        puts("closing");
        for (;;) pause();
    } else if (!strcmp(what, "place")) {
        int file = open("/data/own", O_RDWR | O_CREAT, 0600), place = open("/data/own", O_PATH);
        /* The calls themselves: a C library does without. */
        printf("%d", !syscall(SYS_fchmod, file, 0640));
        printf(" %d", syscall(SYS_fchmod, place, 0600) < 0 && errno == EBADF);
        printf(" %d", syscall(SYS_fchown, place, -1, -1) < 0 && errno == EBADF);
        printf(" %d", syscall(SYS_utimensat, place, 0, 0, 0) < 0 && errno == EBADF);
        printf(" %d", !fchownat(place, "", -1, -1, AT_EMPTY_PATH));
        struct stat s;
        fstat(file, &s);
        printf(" %o\n", s.st_mode & 0777);
    } else if (!strcmp(what, "connects")) {
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t length = sizeof to;
        int full = socket(AF_INET, SOCK_STREAM, 0);
        bind(full, (void *)&to, length);
        listen(full, 0);
        getsockname(full, (void *)&to, &length);
        for (int i = 0; i < 4; i++)
            connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (void *)&to, length);
        struct sigaction a = { .sa_handler = handler };
        sigaction(SIGALRM, &a, 0);
        struct itimerval soon = { { 0, 300 }, { 0, 300 } };
        setitimer(ITIMER_REAL, &soon, 0);
        connecting = socket(AF_INET, SOCK_STREAM, 0);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGALRM);
        pthread_sigmask(SIG_BLOCK, &set, 0);
        spawn(threads, 1, wait_for_it);
        pthread_sigmask(SIG_UNBLOCK, &set, 0);
        for (;;) {
            int next = socket(AF_INET, SOCK_STREAM, 0), last = connecting;
            connecting = next;
            close(last);
            connect(next, (void *)&to, length);
        }
    } else if (!strcmp(what, "locks")) {
        for (int inherit = 0; inherit < 2; inherit++) {
            pthread_mutexattr_t a;
            pthread_mutex_t m;
            pthread_mutexattr_init(&a);
            pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
            if (inherit) pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
            pthread_mutex_init(&m, &a);
            pthread_create(threads, 0, die_with_lock, &m);
            join(threads, 1);
            int e = pthread_mutex_lock(&m);
            printf("%s\n", e == EOWNERDEAD ? "its owner is dead" : strerror(e));
        }
    } else if (!strcmp(what, "processes")) {
        printf("fork: %s\n", fork() < 0 ? strerror(errno) : "made");
        long r = syscall(SYS_clone, 0x3d0f00 | 0x800000, 0, 0, 0, 0);
        printf("untraced: %s\n", r < 0 ? strerror(errno) : "made");
        r = syscall(435, 0, 0);
        printf("clone3: %s\n", r < 0 ? strerror(errno) : "made");
    } else if (!strcmp(what, "keep")) {
        spawn(threads, 8, keep);
        join(threads, 8);
        printf("%ld\n", kept);
    } else if (!strcmp(what, "modes")) {
        own = open("/data/own", O_RDWR | O_CREAT, 0600);
        target = dup(own);
        spawn(threads, 1, replace);
        int refused = 0, changed = 0;
        for (int i = 0; i < 20000; i++) {
            if (!fchmod(target, 0640)) changed++;
            else if (errno == EPERM) refused++;
        }
        stop = 1;
        join(threads, 1);
        struct stat s;
        fstat(0, &s);
        printf("both: %d, mode of the input: %o\n", refused && changed, s.st_mode & 07777);
    }
    return 0;
}
