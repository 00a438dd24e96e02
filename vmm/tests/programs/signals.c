/* Signals. Usage: WHAT. Prints the same natively as in a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile long count, seen, depth;
static sigjmp_buf back;
static char room[1 << 16];

static void handle(int signal, void *handler, int flags) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = handler;
    a.sa_flags = flags;
    if (sigaction(signal, &a, 0)) puts("no handler");
}
static sigset_t set(int signal) {
    sigset_t s;
    sigemptyset(&s);
    if (signal) sigaddset(&s, signal);
    return s;
}
static void sleep_ms(long ms) {
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    while (nanosleep(&t, &t) && errno == EINTR) ;
}
static void counts(int s) { count++; }
static void on_stack(int s, siginfo_t *i, void *c) {
    char here;
    stack_t now;
    sigaltstack(0, &now);
    printf("signal %d on its own stack %d %d, code %d\n", s, &here >= room && &here < room + sizeof room, now.ss_flags, i->si_code);
}
static void nests(int s) {
    depth++;
    if (depth < 4) raise(s);
    seen += depth--;
}
static void jumps(int s, siginfo_t *i, void *c) { seen = (long)i->si_addr; siglongjmp(back, i->si_code); }
static void mends(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    count++;
    printf("fault %d code %d at page %d, error %lld, trap %lld, same %d\n", s, i->si_code, (int)((long)i->si_addr & 4095),
           u->uc_mcontext.gregs[REG_ERR] & 7, u->uc_mcontext.gregs[REG_TRAPNO], (long)i->si_addr == u->uc_mcontext.gregs[REG_CR2]);
    mprotect((void *)((long)i->si_addr & -4096), 4096, PROT_READ | PROT_WRITE);
}
static void skips(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    printf("signal %d code %d here %d\n", s, i->si_code, (long)i->si_addr == u->uc_mcontext.gregs[REG_RIP]);
    u->uc_mcontext.gregs[REG_RIP] += 2;
}
static void spoils(int s) {
    double x[16];
    for (int i = 0; i < 16; i++) x[i] = 99;
    __asm__ volatile("movups %0, %%xmm0\n movups %0, %%xmm7\n movups %0, %%xmm15\n" : : "m"(x[0]) : "xmm0", "xmm7", "xmm15");
    if (__builtin_cpu_supports("avx")) __asm__ volatile("vpcmpeqb %%xmm6, %%xmm6, %%xmm6\n vinsertf128 $1, %%xmm6, %%ymm6, %%ymm6\n" : : : "xmm6");
    __asm__ volatile("" : : : "rbx", "r12", "r13", "memory");
    count++;
}
static void forced(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    printf("signal %d code %d, trap %lld, handled %ld\n", s, i->si_code, u->uc_mcontext.gregs[REG_TRAPNO], count);
    siglongjmp(back, 1);
}
static void lands(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    printf("signal %d code %d at %lx, trap %lld, error %llx, from %llx\n", s, i->si_code, (long)i->si_addr,
           u->uc_mcontext.gregs[REG_TRAPNO], u->uc_mcontext.gregs[REG_ERR], u->uc_mcontext.gregs[REG_RIP]);
    siglongjmp(back, 1);
}
static volatile long at, behind;
static void passes(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    greg_t *g = u->uc_mcontext.gregs;
    printf("signal %d code %d, trap %lld, error %lld, at %lld, a %llx, c %lld, from %lld\n", s, i->si_code, g[REG_TRAPNO], g[REG_ERR],
           g[REG_RIP] - at, g[REG_RAX], g[REG_RCX], g[REG_RSI] - (long)room);
    g[REG_RIP] = behind;
}
/* Port 127 is not like others where KVM has calls arrive at CPL 3. */
#define PORT(code) do { \
    long a = 0x1255, d = 127, c = 3, s = (long)room + 8, t = (long)room + 8; \
    __asm__ volatile("lea 1f(%%rip), %%r8\n mov %%r8, %5\n lea 2f(%%rip), %%r8\n mov %%r8, %6\n 1: " code "\n 2: cld" \
                     : "+a"(a), "+d"(d), "+c"(c), "+S"(s), "+D"(t), "=m"(at), "=m"(behind) : : "r8", "memory", "cc"); \
    printf(code ": a %lx, d %ld, c %ld, from %ld, to %ld\n", a, d, c, s - (long)room, t - (long)room); } while (0)
static void *start;
static void steps(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    printf("step to %lld, code %d\n", u->uc_mcontext.gregs[REG_RIP] - (long)start, i->si_code);
}
static void forges(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    switch (count) {
    case 0: u->uc_mcontext.gregs[REG_RIP] = 1l << 60; break;
    case 1: u->uc_mcontext.gregs[REG_CSGSFS] = 0x08; break;
    case 2: ((unsigned *)u->uc_mcontext.fpregs)[6] = -1; break;
    case 3: *(unsigned long *)((char *)u->uc_mcontext.fpregs + 512) = -1; break;
    case 4: *(unsigned long *)((char *)u->uc_mcontext.fpregs + 520) = -1; break;
    case 5: u->uc_mcontext.fpregs = (void *)8; break;
    case 6: u->uc_mcontext.gregs[REG_EFL] |= 0x3000 | 0x200 | 0x20000; break;
    }
}
/* Until the other is out of its call, which it may not have begun at the first. */
static volatile int out;
static pthread_t other;
static void *sends(void *t) {
    do { sleep_ms(20); pthread_kill((pthread_t)t, SIGUSR1); } while (!out);
    return 0;
}
static void interrupts(void) { out = 0; pthread_create(&other, 0, sends, (void *)pthread_self()); }
static void interrupted(void) { out = 1; pthread_join(other, 0); }
static void *spins(void *p) { while (!count) ; return (void *)count; }
/* It is started with the signal blocked. */
static void *masked(void *p) {
    sigset_t s = set(SIGUSR2);
    int got = 0;
    sigwait(&s, &got);
    return (void *)(long)got;
}
static void value(int s, siginfo_t *i, void *c) { seen = seen * 10 + i->si_value.sival_int; count++; }

/* Runs with all signals blocked, and waits for what another thread's handler does. */
static void waits_for_other(int s) {
    for (int i = 0; !seen && i < 5000; i++) sleep_ms(1);
    count = seen ? 1 : -1;
}
static void sees(int s) { seen = 1; }
static void *takes(void *signal) {
    sigset_t s;
    sigfillset(&s);
    pthread_sigmask(SIG_SETMASK, &s, 0);
    sigdelset(&s, (int)(long)signal);
    __sync_fetch_and_add(&depth, 1);
    while (!seen) sigsuspend(&s);
    return 0;
}
static void *sends_both(void *p) {
    sigset_t s;
    sigfillset(&s);
    pthread_sigmask(SIG_SETMASK, &s, 0);
    while (!depth) sleep_ms(1);
    sleep_ms(30);
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR2);
    return 0;
}
static void code(int s, siginfo_t *i, void *c) { seen = i->si_code; siglongjmp(back, s); }
/* Exceptions but those for denormals and lost precision. */
static void unmask(void) {
    unsigned sse = 0x1100;
    unsigned short x87 = 0x362;
    __asm__ volatile("ldmxcsr %0\n fninit\n fldcw %1" : : "m"(sse), "m"(x87));
}
static volatile double zero, one = 1, big = 1e308, tiny = 1e-308, result;
static volatile long double wide_zero, wide_one = 1, wide;
#define RAISES(what, ...) do { \
    unmask(); \
    int s = sigsetjmp(back, 1); if (!s) { seen = 0; __VA_ARGS__; } printf("%s: %d %ld\n", what, s, seen); } while (0)

int main(int c, char **v) {
    const char *what = v[1];
    setvbuf(stdout, 0, _IOFBF, 8192);
    if (!strcmp(what, "stack")) {
        stack_t own = { .ss_sp = room, .ss_size = sizeof room };
        sigaltstack(&own, 0);
        handle(SIGUSR1, on_stack, SA_SIGINFO | SA_ONSTACK);
        raise(SIGUSR1);
        kill(getpid(), SIGUSR1);
        handle(SIGUSR1, on_stack, SA_SIGINFO);
        raise(SIGUSR1);
        own.ss_flags = 1u << 31;
        printf("disarms %d\n", sigaltstack(&own, 0));
        handle(SIGUSR1, on_stack, SA_SIGINFO | SA_ONSTACK);
        raise(SIGUSR1);
        own.ss_size = 16;
        printf("too small %d\n", sigaltstack(&own, 0) && errno == ENOMEM);
    } else if (!strcmp(what, "nest")) {
        handle(SIGUSR1, nests, SA_NODEFER);
        raise(SIGUSR1);
        printf("%ld %ld\n", seen, depth);
        depth = seen = 0;
        handle(SIGUSR1, nests, SA_RESETHAND | SA_NODEFER);
        depth = 3;
        raise(SIGUSR1);
        struct sigaction a;
        sigaction(SIGUSR1, 0, &a);
        printf("%ld, reset %d\n", seen, a.sa_handler == SIG_DFL);
    } else if (!strcmp(what, "mend")) {
        handle(SIGSEGV, mends, SA_SIGINFO);
        char *page = mmap(0, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        page[7] = 7;
        mprotect(page, 4096, PROT_READ);
        page[9] = 9;
        printf("%d %d %ld\n", page[7], page[9], count);
    } else if (!strcmp(what, "jump")) {
        handle(SIGSEGV, jumps, SA_SIGINFO);
        for (long i = 0; i < 3; i++) {
            int code = sigsetjmp(back, 1);
            if (!code) *(volatile int *)(0x100 + i) = 1;
            printf("%d %lx\n", code, seen);
        }
        int code = sigsetjmp(back, 1);
        if (!code) *(volatile char *)(void *)main = 1;
        printf("%d %d\n", code, seen == (long)main);
        code = sigsetjmp(back, 1);
        if (!code) *(volatile char *)(1l << 60) = 1;
        printf("%d %lx\n", code, seen);
        handle(SIGFPE, jumps, SA_SIGINFO);
        volatile int zero = 0;
        code = sigsetjmp(back, 1);
        if (!code) zero = 1 / zero;
        printf("%d %d\n", code, seen != 0);
    } else if (!strcmp(what, "skip")) {
        handle(SIGILL, skips, SA_SIGINFO);
        __asm__ volatile("ud2");
        puts("on");
    } else if (!strcmp(what, "registers")) {
        double a[2] = { 1, 2 }, b[2];
        unsigned long g[3];
        unsigned char high[32], again[32];
        int avx = __builtin_cpu_supports("avx");
        for (int i = 0; i < 32; i++) high[i] = i;
        handle(SIGUSR1, spoils, 0);
        long pid = getpid(), tid = syscall(SYS_gettid), r;
        if (avx) __asm__ volatile("vmovups %0, %%ymm6" : : "m"(*high) : "xmm6");
        __asm__ volatile("movups %5, %%xmm15\n mov $11, %%rbx\n mov $12, %%r12\n mov $13, %%r13\n syscall\n"
                         "movups %%xmm15, %1\n mov %%rbx, %2\n mov %%r12, %3\n mov %%r13, %4\n"
                         : "=a"(r), "=m"(b), "=m"(g[0]), "=m"(g[1]), "=m"(g[2])
                         : "m"(a), "a"(SYS_tgkill), "D"(pid), "S"(tid), "d"(SIGUSR1)
                         : "rcx", "r11", "rbx", "r12", "r13", "xmm15", "memory");
        if (avx) __asm__ volatile("vmovups %%ymm6, %0" : "=m"(*again));
        printf("%ld: %g %g, %lu %lu %lu, handled %ld, wide %d\n", r, b[0], b[1], g[0], g[1], g[2], count, !avx || !memcmp(high, again, 32));
    } else if (!strcmp(what, "preempted")) {
        handle(SIGUSR1, counts, 0);
        pthread_create(&other, 0, spins, 0);
        sleep_ms(20);
        pthread_kill(other, SIGUSR1);
        void *result;
        pthread_join(other, &result);
        printf("%ld\n", (long)result);
    } else if (!strcmp(what, "interrupt")) {
        handle(SIGUSR1, counts, 0);
        char byte;
        interrupts();
        struct timespec t = { 60, 0 }, left = { 0 };
        printf("sleep %d ", nanosleep(&t, &left));
        printf("%d, most is left %d\n", errno == EINTR, left.tv_sec >= 58);
        interrupted();
        interrupts();
        printf("pause %d ", pause());
        printf("%d\n", errno == EINTR);
        interrupted();
        interrupts();
        struct pollfd p = { 0, POLLIN };
        printf("poll %d ", poll(&p, 1, -1));
        printf("%d\n", errno == EINTR);
        interrupted();
        interrupts();
        printf("read %ld ", (long)read(0, &byte, 1));
        printf("%d, handled %d\n", errno == EINTR, count > 0);
        interrupted();
        /* With SA_RESTART it reads on, until the pipe is closed. */
        count = 0;
        handle(SIGUSR1, counts, SA_RESTART);
        interrupts();
        fflush(stdout);
        puts("!");
        fflush(stdout);
        printf("read %ld\n", (long)read(0, &byte, 1));
        interrupted();
        printf("handled %d\n", count > 0);
    } else if (!strcmp(what, "suspend")) {
        sigset_t s = set(SIGUSR1), none = set(0), pending;
        handle(SIGUSR1, counts, 0);
        sigprocmask(SIG_BLOCK, &s, 0);
        raise(SIGUSR1);
        sigpending(&pending);
        printf("pending %d, handled %ld, ", sigismember(&pending, SIGUSR1), count);
        printf("%d ", sigsuspend(&none));
        printf("%d, handled %ld, ", errno == EINTR, count);
        sigprocmask(SIG_BLOCK, 0, &s);
        printf("blocked again %d\n", sigismember(&s, SIGUSR1));
        raise(SIGUSR1);
        siginfo_t info;
        struct timespec t = { 0, 1000000 };
        printf("waited %d\n", sigtimedwait(&s, &info, &t));
        printf("in vain %d ", sigtimedwait(&s, &info, &t));
        printf("%d\n", errno == EAGAIN);
        void *result;
        sigset_t second = set(SIGUSR2);
        sigprocmask(SIG_BLOCK, &second, 0);
        pthread_create(&other, 0, masked, 0);
        sleep_ms(10);
        pthread_kill(other, SIGUSR2);
        pthread_join(other, &result);
        printf("another waited %ld\n", (long)result);
    } else if (!strcmp(what, "queue")) {
        sigset_t s = set(SIGRTMIN + 1);
        sigaddset(&s, SIGUSR1);
        handle(SIGRTMIN + 1, value, SA_SIGINFO);
        handle(SIGUSR1, counts, 0);
        sigprocmask(SIG_BLOCK, &s, 0);
        for (int i = 1; i < 4; i++) {
            sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ i });
            raise(SIGUSR1);
        }
        sigprocmask(SIG_UNBLOCK, &s, 0);
        printf("%ld in order %ld\n", count, seen);
    } else if (!strcmp(what, "other")) {
        struct sigaction a = { .sa_handler = waits_for_other };
        sigfillset(&a.sa_mask);
        sigaction(SIGUSR1, &a, 0);
        handle(SIGUSR2, sees, 0);
        sigset_t first = set(SIGUSR1), none = set(0);
        sigprocmask(SIG_BLOCK, &first, 0);
        pthread_t third;
        pthread_create(&other, 0, takes, (void *)SIGUSR2);
        pthread_create(&third, 0, sends_both, 0);
        while (!count) sigsuspend(&none);
        printf("the other has its signal %ld\n", count);
    } else if (!strcmp(what, "masks")) {
        /* A call that returns something lets no signal in; one that would wait, or finds nothing, does. */
        sigset_t s = set(SIGUSR1), none = set(0);
        int p[2], n;
        if (pipe(p) || write(p[1], "x", 1) != 1) puts("no pipe");
        sigprocmask(SIG_BLOCK, &s, 0);
        handle(SIGUSR1, counts, 0);
        raise(SIGUSR1);
        struct pollfd one_ = { p[0], POLLIN };
        struct timespec now = { 0, 0 };
        struct epoll_event event = { EPOLLIN }, out;
        int e = epoll_create1(0);
        epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event);
        fd_set f;
        FD_ZERO(&f);
        FD_SET(p[0], &f);
        n = ppoll(&one_, 1, 0, &none); printf("ppoll %d %ld\n", n, count);
        n = pselect(p[0] + 1, &f, 0, 0, 0, &none); printf("pselect %d %ld\n", n, count);
        n = epoll_pwait(e, &out, 1, -1, &none); printf("epoll_pwait %d %ld\n", n, count);
        n = ppoll(&one_, 1, &(struct timespec){ 0, -1 }, &none); printf("wrong %d %d %ld\n", n, errno, count);
        if (read(p[0], room, 1) != 1) puts("lost");
        n = epoll_pwait(e, &out, 1, 0, &none); printf("epoll_pwait, nothing %d %ld\n", n, count);
        n = ppoll(&one_, 1, &now, &none); printf("ppoll, nothing %d %d %ld\n", n, errno, count);
        raise(SIGUSR1);
        n = pselect(p[0] + 1, &f, 0, 0, &now, &none); printf("pselect, nothing %d %d %ld\n", n, errno, count);
        raise(SIGUSR1);
        n = epoll_pwait(e, &out, 1, -1, &none); printf("epoll_pwait, waiting %d %d %ld\n", n, errno, count);
        sigprocmask(SIG_BLOCK, 0, &s);
        printf("blocked again %d\n", sigismember(&s, SIGUSR1));
    } else if (!strcmp(what, "codes")) {
        stack_t own = { .ss_sp = room, .ss_size = sizeof room };
        sigaltstack(&own, 0);
        handle(SIGFPE, code, SA_SIGINFO);
        handle(SIGBUS, code, SA_SIGINFO | SA_ONSTACK);
        RAISES("division", result = one / zero);
        RAISES("invalid", result = zero / zero);
        RAISES("overflow", result = big * big);
        RAISES("underflow", result = tiny * tiny);
        RAISES("x87", wide = wide_one / wide_zero; __asm__ volatile("fwait"));
        RAISES("stack", __asm__ volatile("mov $0x1000000000000000, %%rsp\n push %%rax" : : : "memory"));
    } else if (!strcmp(what, "full")) {
        /* However many wait: those of which one waits are never refused. */
        sigset_t s = set(SIGRTMIN + 1);
        sigprocmask(SIG_BLOCK, &s, 0);
        handle(SIGUSR1, counts, 0);
        handle(SIGPIPE, counts, 0);
        handle(SIGTERM, counts, 0);
        while (!sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ 0 })) ;
        int p[2];
        if (pipe(p)) puts("no pipe");
        close(p[0]);
        printf("kill %d ", kill(getpid(), SIGUSR1));
        printf("raise %d ", raise(SIGUSR1));
        printf("write %d ", (int)write(p[1], "x", 1));
        printf("%d, ", errno == EPIPE);
        printf("of several %d, ", kill(getpid(), SIGRTMIN + 1));
        printf("handled %ld\nready\n", count);
        fflush(stdout);
        while (count < 4) pause();
        puts("told");
        fflush(stdout);
        kill(getpid(), SIGKILL);
    } else if (!strcmp(what, "flood")) {
        sigset_t s = set(SIGRTMIN + 1);
        sigprocmask(SIG_BLOCK, &s, 0);
        long n = 0;
        while (n < 100000 && !sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ 0 })) n++;
        printf("bounded %d\n", n < 100000 && errno == EAGAIN);
    } else if (!strcmp(what, "timers")) {
        sigset_t s = set(SIGALRM), none = set(0);
        sigprocmask(SIG_BLOCK, &s, 0);
        handle(SIGALRM, counts, 0);
        struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, off = { { 0 } };
        setitimer(ITIMER_REAL, &every, 0);
        while (count < 5) sigsuspend(&none);
        setitimer(ITIMER_REAL, &off, &every);
        printf("interval %ld, %d\n", count, (int)every.it_interval.tv_usec);
        sigprocmask(SIG_UNBLOCK, &s, 0);
        count = 0;
        timer_t t;
        struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value = { 7 } };
        struct itimerspec spec = { { 0, 0 }, { 0, 3000000 } };
        handle(SIGRTMIN, value, SA_SIGINFO);
        printf("created %d", timer_create(CLOCK_MONOTONIC, &e, &t));
        printf(", set %d", timer_settime(t, 0, &spec, 0));
        while (!count) ;
        printf(", value %ld, overrun %d, deleted %d\n", seen, timer_getoverrun(t), timer_delete(t));
        alarm(100);
        printf("alarm %u\n", alarm(0));
    } else if (!strcmp(what, "forge")) {
        for (long n = 0; n < 7; n++) {
            count = n;
            handle(SIGUSR1, forges, SA_SIGINFO);
            handle(SIGSEGV, jumps, SA_SIGINFO | SA_NODEFER);
            int code = sigsetjmp(back, 1);
            if (!code) { raise(SIGUSR1); printf("%ld went on\n", n); }
            else printf("%ld refused %d\n", n, code == SI_KERNEL || code == 1);
        }
    } else if (!strcmp(what, "garbage")) {
        handle(SIGSEGV, jumps, SA_SIGINFO | SA_NODEFER);
        if (!sigsetjmp(back, 1)) { syscall(SYS_rt_sigreturn); }
        puts("garbage refused");
    } else if (!strcmp(what, "no-room")) {
        handle(SIGUSR1, counts, 0);
        __asm__ volatile("mov $0x1000, %%rsp\n syscall" : : "a"(SYS_tkill), "D"((long)syscall(SYS_gettid)), "S"((long)SIGUSR1) : "rcx", "r11");
    } else if (!strcmp(what, "no-room-for-exceptions")) {
        stack_t own = { .ss_sp = room, .ss_size = sizeof room };
        sigaltstack(&own, 0);
        handle(SIGTRAP, counts, 0);
        handle(SIGFPE, counts, 0);
        handle(SIGILL, counts, 0);
        handle(SIGSEGV, forced, SA_SIGINFO | SA_ONSTACK);
        if (!sigsetjmp(back, 1)) __asm__ volatile("xor %%esp, %%esp\n int3" : : : "memory");
        if (!sigsetjmp(back, 1)) __asm__ volatile("mov $0x1000, %%esp\n xor %%ecx, %%ecx\n div %%ecx" : : : "eax", "ecx", "edx", "memory");
        if (!sigsetjmp(back, 1)) __asm__ volatile("mov $0x1000, %%esp\n ud2" : : : "memory");
        puts("no handler for that");
        fflush(stdout);
        handle(SIGSEGV, SIG_DFL, 0);
        __asm__ volatile("xor %%esp, %%esp\n int3" : : : "memory");
    } else if (!strcmp(what, "step")) {
        /* Over a call too: the first trap is behind the instruction that follows it. */
        handle(SIGTRAP, steps, SA_SIGINFO);
        __asm__ volatile("lea 1f(%%rip), %%rax\n mov %%rax, %0\n pushf\n orl $0x100, (%%rsp)\n popf\n"
                         "1: mov %1, %%eax\n syscall\n nop\n nop\n mov %1, %%eax\n syscall\n pushf\n andl $~0x100, (%%rsp)\n popf\n nop"
                         : "=m"(start) : "i"(SYS_getpid) : "rax", "rcx", "r11", "memory", "cc");
    } else if (!strcmp(what, "nowhere")) {
        /* Handlers where no program may be: no address at all, the last page below, the kernel's. */
        long places[] = { 1l << 60, -1l << 60, (1l << 47) - 4096, 1l << 47, -1l << 47, -4096 };
        for (int n = 0; n < sizeof places / sizeof *places; n++) {
            handle(SIGSEGV, lands, SA_SIGINFO);
            handle(SIGUSR1, (void *)places[n], 0);
            handle(SIGTRAP, (void *)places[n], 0);
            if (!sigsetjmp(back, 1)) raise(SIGUSR1);
            if (!sigsetjmp(back, 1)) __asm__ volatile("int3");
        }
        fflush(stdout);
        /* Faults where faults are handled, until there is no room left. */
        handle(SIGSEGV, (void *)places[0], SA_NODEFER);
        raise(SIGUSR1);
    } else if (!strcmp(what, "ports")) {
        handle(SIGSEGV, passes, SA_SIGINFO);
        PORT("out %%al, $0x7f");
        PORT("out %%al, %%dx");
        PORT("outsb");
        PORT("std\n outsb");
        PORT("rep outsb");
        PORT("in $0x7f, %%al");
        PORT("in %%dx, %%al");
        PORT("insb");
        PORT("rep insb");
        PORT("out %%ax, %%dx");
        PORT("in %%dx, %%eax");
        PORT("out %%al, $0x80");
        PORT("in $0x7d, %%al");
        fflush(stdout);
        handle(SIGSEGV, SIG_DFL, 0);
        PORT("out %%al, $0x7f");
    } else if (!strcmp(what, "default")) {
        raise(SIGCHLD); raise(SIGURG); raise(SIGWINCH); raise(SIGCONT);
        signal(SIGTERM, SIG_IGN); raise(SIGTERM);
        puts("still here");
        fflush(stdout);
        raise(SIGUSR2);
    } else if (!strcmp(what, "told")) {
        handle(SIGTERM, counts, 0);
        sigset_t s = set(SIGTERM), none = set(0);
        sigprocmask(SIG_BLOCK, &s, 0);
        puts("ready");
        fflush(stdout);
        while (!count) sigsuspend(&none);
        puts("told");
    } else if (!strcmp(what, "computing")) {
        handle(SIGTERM, counts, 0);
        puts("ready");
        fflush(stdout);
        while (!count) ;
        puts("told");
    } else if (!strcmp(what, "waits")) {
        puts("ready");
        fflush(stdout);
        for (;;) pause();
    }
    return 0;
}
