/* Threads. Usage: WHAT. Prints the same natively as in a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MANY 40

static double seconds(clockid_t clock)
{
    struct timespec t = { 0 };
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static void *computes(void *p)
{
    double most = seconds(CLOCK_THREAD_CPUTIME_ID) + 0.2;
    while (seconds(CLOCK_THREAD_CPUTIME_ID) < most) ;
    return (void *)1;
}
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long count, turn;
static __thread long own;

static void start(pthread_t *threads, int n, void *(*f)(void *)) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (long i = 0; i < n; i++)
        if (pthread_create(&threads[i], &small, f, (void *)i)) { puts("no thread"); exit(9); }
}

static long join(pthread_t *threads, int n) {
    long sum = 0;
    for (int i = 0; i < n; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    return sum;
}

static void *add(void *n) {
    own = (long)n;
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&mutex);
        count++;
        if (i % 50 == 0) sched_yield();
        pthread_mutex_unlock(&mutex);
    }
    return (void *)own;
}

static void *in_turn(void *n) {
    for (int round = 0; round < 20; round++) {
        pthread_mutex_lock(&mutex);
        while (turn % MANY != (long)n) pthread_cond_wait(&changed, &mutex);
        turn++;
        count = count * 31 + (long)n;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return 0;
}

static void *meet(void *n) {
    long last = 0;
    for (int round = 0; round < 10; round++) last += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
    return (void *)last;
}

/* Two that never call anything: each goes on only if the other is stopped. */
static volatile long tick, tock;
static void *spin(void *n) {
    for (long i = 0; i < 5; i++) {
        if (n) { while (tick <= i) ; tock = i + 1; }
        else { tick = i + 1; while (tock <= i) ; }
    }
    return (void *)1;
}

/* What a thread has in its registers stays its own. */
static volatile int stop;
static void *registers(void *n) {
    double x[8], seed = 1.0 + (long)n;
    unsigned long g[6], wrong = 0;
    own = (long)n;
    for (long round = 0; !stop || round < 2; round++) {
        for (int i = 0; i < 8; i++) x[i] = seed + i;
        for (int i = 0; i < 6; i++) g[i] = (long)n * 1000 + i;
        for (long i = 0; i < 3000000; i++)
            __asm__ volatile("" : "+x"(x[0]), "+x"(x[1]), "+x"(x[2]), "+x"(x[3]), "+x"(x[4]), "+x"(x[5]), "+x"(x[6]), "+x"(x[7]),
                             "+r"(g[0]), "+r"(g[1]), "+r"(g[2]), "+r"(g[3]), "+r"(g[4]), "+r"(g[5]));
        for (int i = 0; i < 8; i++) wrong += x[i] != seed + i;
        for (int i = 0; i < 6; i++) wrong += g[i] != (unsigned long)n * 1000 + i;
        wrong += own != (long)n;
    }
    return (void *)wrong;
}

static void *compute(void *n) {
    volatile long *sum = n;
    while (!stop) ++*sum;
    return 0;
}

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void sleep_ms(long ms) {
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, 0);
}

static void *sleeper(void *n) {
    sleep_ms(20 + (long)n % 7);
    return (void *)1;
}

static void *die_holding(void *m) { pthread_mutex_lock(m); return 0; }

static void *waits(void *n) { for (;;) pause(); }

static sem_t semaphore;
static void *post(void *n) { sleep_ms(5); sem_post(&semaphore); return 0; }

/* Ends as the owner of a word that another waits to own, and has made it say something else. */
static volatile unsigned owned;
static void *end_owning(void *n) {
    syscall(SYS_futex, &owned, 6, 0, 0, 0, 0);
    while (!(owned & 0x80000000)) sched_yield();
    owned = 0x40000000;
    return (void *)syscall(SYS_futex, &owned, 1, 1, 0, 0, 0);
}

static long futex(volatile unsigned *word, int operation) { return syscall(SYS_futex, word, operation, 0, 0, 0, 0); }

/* A handler that did not ask for calls to be made again (SA_RESTART) gives nobody a lock. */
static volatile unsigned held;
static volatile int order, handled, got;
static void handles(int signal) { handled = ++order; }
static void *locks(void *n) {
    long failed = futex(&held, 6) ? errno : 0;
    got = ++order;
    return (void *)(failed + (futex(&held, 7) ? 1000 : 0));
}

/* Each owns a word, and waits for the other's. */
static volatile unsigned words[2];
static void *crosses(void *n) {
    long mine = (long)n, wrong = futex(&words[mine], 6);
    __sync_fetch_and_add(&count, 1);
    while (count < 2) sched_yield();
    /* The second when the first waits. */
    while (mine && !(words[1] & 0x80000000)) sched_yield();
    long failed = futex(&words[!mine], 6) ? errno : 0;
    if (!failed) futex(&words[!mine], 7);
    futex(&words[mine], 7);
    return (void *)(failed == EDEADLK ? 1 : 1000 * (wrong || failed));
}

/* What the kernel clears when the first thread has ended. */
static volatile int first = 1;
static void *last(void *n) { while (first) sleep_ms(1); return 0; }

static void *leave(void *n) { syscall(SYS_exit, 5); return 0; }

/* Descriptors that many threads wait for. */
#define READERS 150
#define PIPES 60
static int all[3 * PIPES][2], shared[2];
static void *reads(void *n) {
    char byte;
    __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    return (void *)(long)read(shared[0], &byte, 1);
}
static void *polls(void *n) {
    struct pollfd p[PIPES];
    for (int i = 0; i < PIPES; i++) p[i] = (struct pollfd){ all[(long)n * PIPES + i][0], POLLIN };
    __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    long ready = poll(p, PIPES, -1);
    return (void *)(ready * 1000 + p[n ? 7 : 0].revents);
}

int main(int c, char **v) {
    pthread_t threads[MANY];
    const char *what = v[1];
    if (!strcmp(what, "mutex")) {
        start(threads, MANY, add);
        long sum = join(threads, MANY);
        printf("%ld %ld %ld\n", count, sum, own);
    } else if (!strcmp(what, "condition")) {
        start(threads, MANY, in_turn);
        join(threads, MANY);
        printf("%ld %ld\n", turn, count);
    } else if (!strcmp(what, "barrier")) {
        pthread_barrier_init(&barrier, 0, MANY);
        start(threads, MANY, meet);
        printf("%ld\n", join(threads, MANY));
    } else if (!strcmp(what, "spin")) {
        start(threads, 2, spin);
        printf("%ld\n", join(threads, 2));
    } else if (!strcmp(what, "registers")) {
        start(threads, 4, registers);
        sleep_ms(60);
        stop = 1;
        printf("%ld wrong\n", join(threads, 4));
    } else if (!strcmp(what, "sleep")) {
        volatile long sum = 0;
        pthread_create(&threads[0], 0, compute, (void *)&sum);
        long before = now();
        /* On a busy host the other thread may not have begun yet. */
        for (int i = 0; i < 3 || (!sum && i < 3000); i++) sleep_ms(10);
        stop = 1;
        pthread_join(threads[0], 0);
        printf("slept %d, computed %d\n", now() - before >= 30, sum > 0);
    } else if (!strcmp(what, "sleepers")) {
        start(threads, MANY, sleeper);
        printf("%ld woke\n", join(threads, MANY));
    } else if (!strcmp(what, "timed")) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 20000000;
        if (t.tv_nsec >= 1000000000) { t.tv_sec++; t.tv_nsec -= 1000000000; }
        pthread_mutex_lock(&mutex);
        printf("condition %d ", pthread_cond_timedwait(&changed, &mutex, &t) == ETIMEDOUT);
        sem_init(&semaphore, 0, 0);
        printf("semaphore %d ", sem_timedwait(&semaphore, &t) < 0 && errno == ETIMEDOUT);
        pthread_create(&threads[0], 0, post, 0);
        t.tv_sec += 60;
        printf("posted %d\n", sem_timedwait(&semaphore, &t));
        pthread_join(threads[0], 0);
    } else if (!strcmp(what, "robust")) {
        pthread_mutexattr_t a;
        pthread_mutex_t m;
        for (int inherits = 0; inherits < 2; inherits++) {
            pthread_mutexattr_init(&a);
            pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
            if (inherits && pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT)) puts("no inheritance");
            pthread_mutex_init(&m, &a);
            pthread_create(&threads[0], 0, die_holding, &m);
            pthread_join(threads[0], 0);
            printf("owner died %d, ", pthread_mutex_lock(&m) == EOWNERDEAD);
            printf("consistent %d, ", pthread_mutex_consistent(&m));
            printf("unlocked %d, ", pthread_mutex_unlock(&m));
            printf("locked %d\n", pthread_mutex_lock(&m));
        }
        void *woken;
        pthread_create(&threads[0], 0, end_owning, 0);
        while (!owned) sched_yield();
        long locked = syscall(SYS_futex, &owned, 6, 0, 0, 0, 0);
        printf("mine %ld %d, ", locked, (owned & 0x3fffffff) == syscall(SYS_gettid));
        printf("owner died %d, ", !!(owned & 0x40000000));
        pthread_join(threads[0], &woken);
        printf("nobody was woken %ld\n", (long)woken);
    } else if (!strcmp(what, "inherit")) {
        pthread_mutexattr_t a;
        pthread_mutexattr_init(&a);
        pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
        pthread_mutex_init(&mutex, &a);
        start(threads, MANY, add);
        join(threads, MANY);
        printf("%ld\n", count);
        struct sigaction action = { .sa_handler = handles };
        sigaction(SIGUSR1, &action, 0);
        futex(&held, 6);
        pthread_create(&threads[0], 0, locks, 0);
        while (!(held & 0x80000000)) sched_yield();
        pthread_kill(threads[0], SIGUSR1);
        while (!handled) sched_yield();
        sleep_ms(10);
        order++;
        futex(&held, 7);
        printf("locked %ld, ", join(threads, 1));
        printf("handled %d, got %d\n", handled, got);
    } else if (!strcmp(what, "deadlock")) {
        start(threads, 2, crosses);
        /* One is told, or both where they ask at the same time. */
        long told = join(threads, 2);
        printf("%d %x %x\n", told == 1 || told == 2, words[0], words[1]);
    } else if (!strcmp(what, "first-leaves")) {
        pthread_create(&threads[0], 0, last, 0);
        syscall(SYS_set_tid_address, &first);
        fflush(stdout);
        syscall(SYS_exit, 3);
    } else if (!strcmp(what, "whole-group")) {
        pthread_create(&threads[0], 0, sleeper, 0);
        _exit(6);
    } else if (!strcmp(what, "crowd")) {
        /* More than the limit of descriptors, at one and at many of them. */
        struct rlimit few;
        pthread_t crowd[READERS];
        for (int i = 0; i < 3 * PIPES; i++) if (pipe(all[i])) puts("no pipe");
        if (pipe(shared)) puts("no pipe");
        getrlimit(RLIMIT_NOFILE, &few);
        few.rlim_cur = 128;
        printf("limit %d\n", setrlimit(RLIMIT_NOFILE, &few));
        start(crowd, READERS, reads);
        start(threads, 3, polls);
        while (__atomic_load_n(&count, __ATOMIC_SEQ_CST) < READERS + 3) sched_yield();
        usleep(20000);
        for (int i = 0; i < READERS; i++) write(shared[1], "x", 1);
        printf("read %ld\n", join(crowd, READERS));
        write(all[0][1], "x", 1);
        write(all[PIPES + 7][1], "x", 1);
        write(all[2 * PIPES + 7][1], "x", 1);
        printf("polled %ld\n", join(threads, 3));
    } else if (!strcmp(what, "bomb")) {
        pthread_attr_t a;
        pthread_t t;
        long n = 0;
        int error = 0;
        pthread_attr_init(&a);
        pthread_attr_setstacksize(&a, 16384);
        while (n < 100000 && !(error = pthread_create(&t, &a, waits, 0))) n++;
        printf("%ld threads, %s\n", n, error == EAGAIN ? "again" : strerror(error));
        _exit(0);
    } else if (!strcmp(what, "time")) {
        /* One computes; the other waits for it, and looks at both clocks. */
        clockid_t clock, own;
        struct timespec t = { 0, 1000000 };
        struct rusage usage;
        start(threads, 1, computes);
        pthread_getcpuclockid(threads[0], &clock);
        while (seconds(clock) < 0.05) nanosleep(&t, 0);
        printf("joined %ld\n", join(threads, 1));
        /* Who is joined has not ended yet: its clock tells when it has. */
        while (!clock_gettime(clock, &t)) sched_yield();
        printf("ended %d\n", errno == EINVAL);
        pthread_getcpuclockid(pthread_self(), &own);
        getrusage(RUSAGE_THREAD, &usage);
        printf("own %d %d %d\n", seconds(CLOCK_THREAD_CPUTIME_ID) < 0.1, seconds(own) < 0.1,
               usage.ru_utime.tv_sec + usage.ru_stime.tv_sec == 0);
        clock_getcpuclockid(0, &clock);
        printf("all %d %d\n", seconds(CLOCK_PROCESS_CPUTIME_ID) >= 0.2, seconds(clock) >= 0.2);
        printf("of the process %d\n", clock_getcpuclockid(getpid(), &clock));
        printf("children %d, others %d\n", getrusage(RUSAGE_CHILDREN, &usage) || usage.ru_utime.tv_usec, getrusage(7, &usage));
        printf("%d %d\n", clock_getres(CLOCK_THREAD_CPUTIME_ID, &t), clock_getres(own, &t));
        /* Of none that there is. */
        printf("%ld %ld\n", syscall(SYS_clock_gettime, ~4000000 << 3 | 6, &t), syscall(SYS_clock_gettime, 12, &t));
    } else if (!strcmp(what, "fork")) {
        char *no[] = { 0 };
        printf("%d ", fork());
        printf("%s\n", strerror(errno));
        printf("%d ", execv("/bin/true", no));
        printf("%s\n", strerror(errno));
    } else if (!strcmp(what, "odd")) {
        long word = 0, *bad = (long *)8;
        struct { unsigned long f[11]; } args = {{ 0 }};
        printf("%ld ", syscall(SYS_futex, bad, 0, 0, 0));
        printf("%d ", errno == EFAULT);
        printf("%ld ", syscall(SYS_futex, (char *)&word + 1, 0, 0, 0));
        printf("%d ", errno == EINVAL);
        printf("%ld ", syscall(SYS_futex, &word, 0, 1, 0));
        printf("%d ", errno == EAGAIN);
        printf("%ld ", syscall(SYS_futex, &word, 99, 1, 0));
        printf("%d\n", errno == ENOSYS);
        /* VM without SIGHAND and so on. */
        printf("%ld %d ", syscall(SYS_clone, 0x10000, 0, 0, 0, 0), errno);
        printf("%ld %d ", syscall(SYS_clone, 0x10100, 0, 0, 0, 0), errno);
        printf("%ld %d ", syscall(SYS_clone3, &args, 8), errno);
        printf("%ld %d ", syscall(SYS_clone3, bad, 88), errno);
        printf("%ld %d\n", syscall(SYS_clone3, &args, 100000), errno);
        /* A thread whose number can be told to nobody starts, and ends. */
        static long top[1024];
        volatile int started = 0;
        long made;
        register long r10 __asm__("r10") = 8;
        register long r8 __asm__("r8") = 0;
        top[1023] = (long)&started;
        __asm__ volatile("syscall\n test %%rax, %%rax\n jnz 1f\n pop %%rax\n movl $1, (%%rax)\n"
                         "xor %%edi, %%edi\n mov %6, %%eax\n syscall\n 1:"
                         : "=a"(made) : "0"((long)SYS_clone), "D"(0x1310f00l), "S"(top + 1023), "d"(8l), "r"(r10), "i"(SYS_exit), "r"(r8)
                         : "rcx", "r11", "memory");
        while (made > 0 && !started) sched_yield();
        printf("started %d\n", started);
    }
    return 0;
}
