/* Random calls of every number with arguments of every kind, from one thread or two at once, then an end that no
 * honest program has. What comes back is no matter; what becomes of the monitor is.
 * Usage: SEED STEPS. The directory /data is spoilt, and /data/steps counts the calls.
 *
 * Left out is what would only end the guest early, or have it wait for nobody: exit, a stop, the thread pointer. Whatever
 * waits is woken by a timer. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define CALLS 480UL
#define PAGE 4096UL
/* Mappings are made and unmade here alone. */
#define SCRATCH 0x100000000UL
#define SCRATCH_SIZE (64UL << 20)
#define SLOT 512UL
#define SLOTS 32UL
#define MOST (1UL << 20)
#define THREADS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

static const char *const names[] = {
    "/data/a", "/data/b/c", "/data", "/data/../data/a", "a", "..", ".", "", "/", "/data/link", "/data/dir/", "b//",
    "/data/fifo", "/proc/self/mem", "/proc/self/fd/3", "/proc/self/exe", "/dev/null", "/dev/urandom", "/dev/shm/a",
    "/tmp/a", "/etc/passwd", "/proc/1/environ", "/proc/self/root/..", "\xff\x01\n",
};

/* What arguments point to, with a hole behind it. */
struct state {
    uint64_t random;
    unsigned char *slots;
};

static struct state states[2];
static volatile uint64_t *steps;
static volatile int other;
static char other_stack[65536] __attribute__((aligned(16)));

static uint64_t any(struct state *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static uint64_t below(struct state *s, uint64_t most)
{
    return (any(s) >> 11) % most;
}

/* Without the C library, which writes errno by the thread pointer. */
static long ask(uint64_t number, const uint64_t a[6])
{
    register uint64_t r10 __asm__("r10") = a[3];
    register uint64_t r8 __asm__("r8") = a[4];
    register uint64_t r9 __asm__("r9") = a[5];
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#define ASK(number, ...) ask(number, (const uint64_t[6]){__VA_ARGS__})

__asm__(".globl restore\nrestore: mov $15, %eax\nsyscall\n");
void restore(void);

struct action {
    void (*handler)(int);
    uint64_t flags;
    void (*restorer)(void);
    uint64_t mask;
};

/* Whoever waits is woken: the timer's signal comes to one thread only. */
static void woken(int signal)
{
    if (signal == SIGALRM && other) ASK(SYS_tkill, other, SIGUSR2);
}

static const struct action quiet = {woken, 0x04000000 /* SA_RESTORER */, restore, 0};

static void handle(int signal)
{
    ASK(SYS_rt_sigaction, signal, (uint64_t)&quiet, 0, 8);
}

static unsigned char *slot(struct state *s)
{
    return s->slots + below(s, SLOTS) * SLOT;
}

static uint64_t address(struct state *s)
{
    switch (below(s, 12)) {
    case 0: return 0;
    case 1: return any(s);
    case 2: return 0xffffffff80000000UL + below(s, PAGE);
    case 3: return ~0UL - below(s, PAGE);
    case 4: return (1UL << 47) - 2 * PAGE + below(s, 2 * PAGE);
    case 5: return 1UL << below(s, 64);
    case 6: return SCRATCH + below(s, SCRATCH_SIZE);
    default: return SCRATCH + below(s, SCRATCH_SIZE) / PAGE * PAGE;
    }
}

static uint64_t length(struct state *s)
{
    switch (below(s, 12)) {
    case 0: return 0;
    case 1: return any(s);
    case 2: return ~0UL - below(s, PAGE);
    case 3: return 1UL << below(s, 64);
    case 4: return below(s, 32) << 21;
    default: return below(s, 64 * PAGE);
    }
}

/* A pointer that is good, that ends at the hole, or that is none. */
static uint64_t pointer(struct state *s)
{
    switch (below(s, 8)) {
    case 0: return address(s);
    case 1: return (uint64_t)s->slots + SLOTS * SLOT - below(s, 32);
    default: return (uint64_t)slot(s);
    }
}

static uint64_t value(struct state *s)
{
    switch (below(s, 10)) {
    case 0: return length(s);
    case 1: return -below(s, 200);
    case 2: return 1UL << below(s, 33);
    case 3: return any(s) & any(s) & 0xffffffff;
    case 4: return below(s, 5000);
    case 5:
    case 6: return below(s, 12);
    default: return pointer(s);
    }
}

static uint64_t path(struct state *s)
{
    return below(s, 8) ? (uint64_t)names[below(s, sizeof names / sizeof *names)] : pointer(s);
}

static uint64_t harmless_signal(struct state *s)
{
    uint64_t signal = below(s, 70);
    return signal == SIGKILL || (signal >= SIGSTOP && signal <= SIGTTOU) || signal == SIGALRM ? 0 : signal;
}

/* Structures as calls take them, over what earlier ones left. */
static void fill(struct state *s)
{
    uint64_t *words = (uint64_t *)slot(s);
    size_t count = SLOT / sizeof *words;
    switch (below(s, 6)) {
    case 0: /* struct iovec */
        for (size_t n = 0; n + 1 < count; n += 2) {
            words[n] = below(s, 4) ? (uint64_t)slot(s) : address(s);
            words[n + 1] = below(s, 4) ? below(s, 2 * SLOT) : length(s);
        }
        break;
    case 1: /* struct timespec, itimerspec, sigset_t of nothing */
        for (size_t n = 0; n + 1 < count; n += 2) words[n] = 0, words[n + 1] = below(s, 100000);
        break;
    case 2: /* struct sockaddr, pollfd, msghdr */
        for (size_t n = 0; n < count; n++) words[n] = below(s, 2) ? below(s, 20) : (uint64_t)slot(s);
        break;
    case 3: /* struct sigaction, sigevent */
        memcpy(words, &quiet, sizeof quiet);
        words[1] |= any(s) & (SA_NODEFER | SA_SIGINFO | SA_ONSTACK | SA_RESTART);
        words[8] = any(s);
        words[9] = SIGUSR1 | below(s, 5) << 32;
        break;
    case 4:
        for (size_t n = 0; n < count; n++) words[n] = any(s);
        break;
    default: memcpy(words, names[below(s, sizeof names / sizeof *names)], 8);
    }
}

/* False if the call is left out. */
static int restrain(struct state *s, uint64_t number, uint64_t a[6])
{
    uint64_t valid = (uint64_t)slot(s);
    switch (number) {
    case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_rt_sigreturn: case SYS_sync: case SYS_syncfs:
        return 0;
    case 335: case 336:
        /* uretprobe and uprobe, which no filter sees: SIGILL where nobody probes. */
        return 0;
    case SYS_mmap:
        a[0] = address(s), a[1] = length(s), a[2] = below(s, 16);
        a[3] = below(s, 64) | (below(s, 2) ? MAP_FIXED : 0) | (below(s, 4) ? MAP_ANONYMOUS : 0);
        if ((a[3] & MAP_FIXED) && a[0] < SCRATCH) a[0] = SCRATCH;
        a[5] = below(s, 16) * PAGE;
        break;
    case SYS_munmap: case SYS_mprotect: case SYS_madvise: case SYS_mremap: case SYS_msync: case SYS_mlock:
        a[0] = SCRATCH + below(s, SCRATCH_SIZE) / PAGE * PAGE, a[1] = below(s, 4) ? below(s, 512) * PAGE : 0;
        if (!below(s, 8)) a[0] = (1UL << 63) | any(s), a[1] = length(s);
        if (number == SYS_mremap) a[2] = below(s, 512) * PAGE, a[3] = below(s, 8), a[4] = address(s) | SCRATCH;
        if (number == SYS_mprotect) a[2] = below(s, 9);
        break;
    case SYS_brk: a[0] = below(s, 2) ? 0 : (uint64_t)ASK(SYS_brk, 0) + below(s, MOST); break;
    case SYS_arch_prctl:
        if (a[0] == 0x1002 /* ARCH_SET_FS */) a[0] = 0x1003;
        break;
    case SYS_clone: a[0] &= ~(uint64_t)(CLONE_VM | CLONE_THREAD); break;
    case SYS_close: a[0] = 3 + below(s, 40); break;
    case SYS_close_range: a[0] = 10 + below(s, 40); break;
    case SYS_rt_sigaction: a[0] = below(s, 2) ? SIGUSR1 : SIGWINCH; break;
    case SYS_kill: case SYS_tkill: a[1] = harmless_signal(s); break;
    case SYS_tgkill: case SYS_rt_sigqueueinfo: a[number == SYS_tgkill ? 2 : 1] = harmless_signal(s); break;
    case SYS_rt_tgsigqueueinfo: a[2] = harmless_signal(s); break;
    case SYS_rt_sigsuspend: a[0] = 0; break;
    case SYS_ppoll: case SYS_pselect6: a[number == SYS_ppoll ? 3 : 5] = 0; break;
    case SYS_epoll_pwait: case SYS_epoll_pwait2: a[4] = 0; break;
    case SYS_setrlimit: case SYS_prlimit64:
        if (a[number == SYS_setrlimit ? 0 : 1] < 1 /* RLIMIT_CPU */) return 0;
        if (below(s, 8)) a[number == SYS_setrlimit ? 1 : 2] = 0;
        break;
    case SYS_setitimer: a[0] = 1 + below(s, 4); break;
    case SYS_timer_create: a[1] = below(s, 2) ? 0 : valid; memset((void *)valid, 0, 64); break;
    case SYS_truncate: case SYS_ftruncate: a[1] = below(s, 64 * MOST); break;
    case SYS_fallocate: a[2] %= MOST, a[3] %= MOST; break;
    case SYS_sendfile: case SYS_copy_file_range: case SYS_splice:
        a[number == SYS_sendfile ? 3 : 4] %= MOST;
        break;
    case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev:
        if (a[0] < 3) a[0] = 5;
        a[3] %= 64 * MOST;
        break;
    default: break;
    }
    return 1;
}

/* Makes sure that the timer wakes, whatever was asked before. */
static void rouse(void)
{
    static const struct itimerval every = {{0, 3000}, {0, 3000}};
    static const uint64_t none;
    handle(SIGALRM);
    handle(SIGUSR2);
    ASK(SYS_rt_sigprocmask, SIG_SETMASK, (uint64_t)&none, 0, 8);
    ASK(SYS_setitimer, ITIMER_REAL, (uint64_t)&every, 0);
}

static void step(struct state *s)
{
    uint64_t number = below(s, 50) ? below(s, CALLS) : any(s), a[6];
    for (int n = 0; n < 6; n++) a[n] = value(s);
    if (below(s, 2)) a[0] = below(s, 3) ? below(s, 24) : (uint64_t)AT_FDCWD;
    if (below(s, 2)) a[1] = pointer(s);
    if (below(s, 3) == 0) a[2] = length(s);
    if (below(s, 3) == 0) a[0] = path(s);
    if (below(s, 3) == 0) a[1] = path(s);
    fill(s);
    if (!restrain(s, number, a)) return;
    rouse();
    ask(number, a);
    __atomic_fetch_add(steps, 1, __ATOMIC_RELAXED);
}

static _Noreturn int second(void *unused)
{
    (void)unused;
    for (;;) step(&states[1]);
}

/* Ends as no program should. */
static void end(struct state *s)
{
    static const struct itimerval soon = {{0, 0}, {0, 200000}};
    static const uint64_t none, defaults[4];
    uint64_t kind = below(s, 8);
    unsigned char *code = (unsigned char *)ASK(SYS_mmap, 0, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1UL, 0);
    ASK(SYS_rt_sigaction, SIGALRM, (uint64_t)defaults, 0, 8);
    ASK(SYS_rt_sigprocmask, SIG_SETMASK, (uint64_t)&none, 0, 8);
    ASK(SYS_setitimer, ITIMER_REAL, (uint64_t)&soon, 0);
    if (kind < 3 && (unsigned long)code < -PAGE) {
        static const char *const forbidden[] = {
            "\xf4", "\x0f\x34", "\xcd\x80", "\xcd\x03", "\xcf", "\xe6\x80", "\xec", "\x0f\x22\xc0", "\x0f\x01\xd9",
            "\x0f\x30", "\x0f\x32", "\x9c\x48\xcf", "\xfa", "\x0f\x01\xf8", "\x0f\x07", "\x48\x0f\x07", "\xcc", "\xf1",
        };
        for (size_t n = 0; n < PAGE; n++) code[n] = (unsigned char)any(s);
        if (kind) memcpy(code, forbidden[below(s, sizeof forbidden / sizeof *forbidden)], 3);
        ((void (*)(void))code)();
    } else if (kind == 3) {
        ((void (*)(void))address(s))();
    } else if (kind == 4) {
        *(volatile char *)address(s) = 1;
    } else if (kind < 7) {
        /* A frame of noise, with segments and floating point state at random. */
        uint64_t *frame = (uint64_t *)s->slots;
        for (size_t n = 0; n < SLOTS * SLOT / 8; n++) frame[n] = below(s, 3) ? any(s) : (uint64_t)slot(s);
        __asm__ volatile("mov %0, %%rsp\nmov $15, %%eax\nsyscall\nud2" : : "r"(frame + below(s, 64)) : "memory");
    }
    ASK(SYS_exit_group, 77);
}

int main(int count, char **arguments)
{
    if (count < 3) return 2;
    uint64_t seed = strtoul(arguments[1], NULL, 10), wanted = strtoul(arguments[2], NULL, 10);
    int file = open("/data/steps", O_RDWR);
    steps = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (steps == MAP_FAILED || close(file)) return 3;
    for (int n = 0; n < 2; n++) {
        size_t size = SLOTS * SLOT;
        states[n].random = (2 * seed + n + 1) * 0x9e3779b97f4a7c15UL;
        states[n].slots = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (states[n].slots == MAP_FAILED || munmap(states[n].slots + size, PAGE)) return 3;
    }
    mmap((void *)SCRATCH, SCRATCH_SIZE, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    for (int signal = 1; signal < 65; signal++) {
        if (signal != SIGSEGV && signal != SIGBUS && signal != SIGILL && signal != SIGFPE && signal != SIGTRAP &&
            signal != SIGSYS)
            handle(signal);
    }
    if (seed % 2) other = clone(second, other_stack + sizeof other_stack - 64, THREADS, NULL);
    while (*steps < wanted) step(&states[0]);
    end(&states[0]);
}
