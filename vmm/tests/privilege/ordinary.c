/* What ordinary programs do: calls, memory that comes with its first touch, memory that goes, threads,
 * handlers of signals, and the mistakes that end them. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static char *map(size_t length) {
    return mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int calls(void) {
    unsigned long sum = 0;
    for (int at = 0; at < 3000; at++) sum += syscall(SYS_write, 1, "", 0) + 1;
    printf("%lu calls, %.3f\n", sum, sum / 7.0);
    return 4;
}

static int memory(void) {
    size_t length = 24 << 20, half = length / 2;
    unsigned char *p = map(length);
    unsigned long sum = 0, zero = 0;
    for (size_t at = 0; at < length; at += 4096) p[at] = at >> 12;
    for (size_t at = 0; at < length; at += 4096) sum += p[at];
    for (int round = 0; round < 20; round++) {
        mprotect(p + half, 4096, PROT_READ);
        sum += p[half];
        mprotect(p + half, 4096, PROT_READ | PROT_WRITE);
        p[half] = round;
        munmap(p, 4096);
        unsigned char *q = mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        zero += q[0];
        q[0] = 1;
    }
    madvise(p, length, MADV_DONTNEED);
    for (size_t at = 0; at < length; at += 4096) zero += p[at];
    for (int at = 0; at < 300; at++) {
        char *m = malloc(at * 977 + 1);
        memset(m, at, at * 977 + 1);
        sum += m[at];
        if (at % 3) free(m);
    }
    printf("%lu %lu\n", sum, zero);
    return 5;
}

static volatile long tick, tock, handled;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long total;
static __thread double own;

/* Each goes on only if the other is stopped, and keeps what it has in its registers. */
static void *spin(void *second) {
    register double x __asm__("xmm9") = own = second ? 2.5 : 1.5;
    for (long at = 0; at < 4; at++) {
        __asm__ volatile("" : "+x"(x));
        if (second) { while (tick <= at) ; tock = at + 1; }
        else { tick = at + 1; while (tock <= at) ; }
    }
    return (void *)(long)(x == own);
}

static void *add(void *number) {
    for (int at = 0; at < 200; at++) {
        pthread_mutex_lock(&mutex);
        total += (long)number;
        pthread_mutex_unlock(&mutex);
    }
    return 0;
}

static int threads(void) {
    pthread_t thread[8];
    pthread_attr_t small;
    void *result;
    long right = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (long at = 0; at < 8; at++) pthread_create(&thread[at], &small, add, (void *)at);
    for (int at = 0; at < 8; at++) pthread_join(thread[at], &result);
    for (long at = 0; at < 2; at++) pthread_create(&thread[at], &small, spin, (void *)at);
    for (int at = 0; at < 2; at++) { pthread_join(thread[at], &result); right += (long)result; }
    printf("%ld %ld\n", total, right);
    return 6;
}

/* One writes; the other withdraws the right, and nothing changes any more until it gives it back, from another
 * place or with other memory behind it in some rounds. */
static volatile long *counter;
static volatile int withdrawn, stopped, done;
static void *count(void *unused) {
    while (!done) { (*counter)++; sched_yield(); }
    return 0;
}
static void wait_for_it(int number) {
    stopped = 1;
    while (withdrawn) sched_yield();
    stopped = 0;
}

static int withdraw(void) {
    pthread_t thread;
    struct sigaction action;
    long changed = 0, odd = 0;
    memset(&action, 0, sizeof action);
    action.sa_handler = wait_for_it;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, 0);
    counter = (long *)map(4096);
    pthread_create(&thread, 0, count, 0);
    for (int round = 0; round < 60; round++) {
        while (*counter < 50) sched_yield();
        withdrawn = 1;
        mprotect((void *)counter, 4096, round % 3 ? PROT_READ : PROT_NONE);
        if (round % 3) {
            long before = *counter;
            while (!stopped) sched_yield();
            changed += *counter != before;
        } else {
            while (!stopped) sched_yield();
            if (mmap((void *)counter, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != counter) odd++;
            odd += *counter != 0;
        }
        mprotect((void *)counter, 4096, PROT_READ | PROT_WRITE);
        *counter = 0;
        withdrawn = 0;
        while (stopped) sched_yield();
    }
    done = 1;
    pthread_join(thread, 0);
    printf("%ld changed, %ld odd\n", changed, odd);
    return 8;
}

static char *mended;
static void mend(int number, siginfo_t *info, void *context) {
    handled += info->si_addr == mended;
    mprotect(mended, 4096, PROT_READ | PROT_WRITE);
}
static void note(int number) { handled += 10; }

static int signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    sigaction(SIGUSR1, &action, 0);
    for (int at = 0; at < 3; at++) raise(SIGUSR1);
    action.sa_sigaction = mend;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, 0);
    mended = map(4096);
    mprotect(mended, 4096, PROT_NONE);
    *(volatile char *)mended = 7;
    printf("%ld %d\n", handled, *mended);
    return 7;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "hello";
    char *page = map(8192);
    page[4096] = 1;
    if (!strcmp(what, "hello")) {
        printf("hello, %d words\n", count);
        return 3;
    }
    if (!strcmp(what, "calls")) return calls();
    if (!strcmp(what, "memory")) return memory();
    if (!strcmp(what, "threads")) return threads();
    if (!strcmp(what, "withdraw")) return withdraw();
    if (!strcmp(what, "signals")) return signals();
    if (!strcmp(what, "write-text")) *(volatile char *)(void *)main = 1;
    if (!strcmp(what, "execute-data")) ((void (*)(void))page)();
    if (!strcmp(what, "unmapped")) { munmap(page + 4096, 4096); return page[4096]; }
    if (!strcmp(what, "protected")) { mprotect(page + 4096, 4096, PROT_NONE); return page[4096]; }
    if (!strcmp(what, "read-only")) { mprotect(page + 4096, 4096, PROT_READ); page[4096] = 2; }
    if (!strcmp(what, "null")) return *(volatile int *)(long)(count - 2);
    if (!strcmp(what, "trap")) __builtin_trap();
    if (!strcmp(what, "divide")) { volatile int zero = 0; return 1 / zero; }
    return 0;
}
