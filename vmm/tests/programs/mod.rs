//! Guests that try what a guest may not, in C.

#![allow(missing_docs, unreachable_pub)]

/// Looks for every mapping in the address space: where one cannot be made, something is. Then looks for
/// the first argument, which is written backwards, in all that can be read.
pub const SCAN: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static const char *backwards;
static long length, hits;
static int readable(unsigned long at) {
    return syscall(SYS_rt_sigprocmask, 99, at, 0, 8) < 0 && errno != EFAULT;
}
static void look(unsigned long from, unsigned long to) {
    int can = readable(from);
    printf("%lx-%lx %s\n", from, to, can ? "r" : "-");
    if (!can) return;
    for (const char *p = (char *)from; p + length <= (char *)to; p++) {
        long i = 0;
        while (i < length && p[i] == backwards[length - 1 - i]) i++;
        hits += i == length;
    }
}
static unsigned long start, end;
static void found(unsigned long from, unsigned long to) {
    if (from != end || readable(from) != readable(start)) {
        if (end) look(start, end);
        start = from;
    }
    end = to;
}
static void search(unsigned long from, unsigned long to) {
    void *p = mmap((void *)from, to - from, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == (void *)from) { munmap(p, to - from); return; }
    if (p != MAP_FAILED) { puts("elsewhere"); _exit(9); }
    if (errno == ENOMEM) return;
    if (errno != EEXIST) { printf("errno %d\n", errno); _exit(9); }
    if (to - from == 4096) { found(from, to); return; }
    unsigned long middle = (from + (to - from) / 2) & ~4095ul;
    search(from, middle);
    search(middle, to);
}
int main(int c, char **v) {
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    backwards = v[1];
    length = strlen(backwards);
    for (volatile long spin = 0; spin < 200000000; spin++) ;
    search(0x10000, 0x7ffffffff000);
    look(start, end);
    printf("hits %ld\n", hits);
    return 0;
}"#;

/// Exits with a bit for each thing that a new program does not find in its registers.
pub const REGISTERS: &str = r#"
__asm__(".globl _start\n_start:\n"
        "sub $336, %rsp\n"
        "movups %xmm0, (%rsp)\n" "movups %xmm1, 16(%rsp)\n" "movups %xmm2, 32(%rsp)\n" "movups %xmm3, 48(%rsp)\n"
        "movups %xmm4, 64(%rsp)\n" "movups %xmm5, 80(%rsp)\n" "movups %xmm6, 96(%rsp)\n" "movups %xmm7, 112(%rsp)\n"
        "movups %xmm8, 128(%rsp)\n" "movups %xmm9, 144(%rsp)\n" "movups %xmm14, 160(%rsp)\n" "movups %xmm15, 176(%rsp)\n"
        "mov %rax, 192(%rsp)\n" "mov %rbx, 200(%rsp)\n" "mov %rcx, 208(%rsp)\n" "mov %rdx, 216(%rsp)\n"
        "mov %rsi, 224(%rsp)\n" "mov %rdi, 232(%rsp)\n" "mov %rbp, 240(%rsp)\n" "mov %r8, 248(%rsp)\n"
        "mov %r9, 256(%rsp)\n" "mov %r10, 264(%rsp)\n" "mov %r11, 272(%rsp)\n" "mov %r12, 280(%rsp)\n"
        "mov %r13, 288(%rsp)\n" "mov %r14, 296(%rsp)\n" "mov %r15, 304(%rsp)\n"
        "mov %rsp, %rdi\n" "call check\n");
static long call(long n, long a, long b) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return r;
}
void check(const unsigned long *saved) {
    long wrong = 0;
    for (int i = 0; i < 24; i++) if (saved[i]) wrong |= 1;
    for (int i = 24; i < 39; i++) if (saved[i]) wrong |= 2;
    unsigned sse; unsigned short x87;
    __asm__ volatile("stmxcsr %0" : "=m"(sse));
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    if (sse != 0x1f80) wrong |= 4;
    if (x87 != 0x37f) wrong |= 8;
    unsigned long base = 1;
    if (call(158, 0x1003, (long)&base) || base) wrong |= 16;
    base = 1;
    if (call(158, 0x1004, (long)&base) || base) wrong |= 32;
    call(231, wrong, 0);
}"#;

pub const FACTS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>
extern char end[];
static const char *said(long result) { return result < 0 ? strerror(errno) : "ok"; }
int main(void) {
    struct utsname u;
    uname(&u);
    printf("%s %s %s %s %s\n", u.sysname, u.nodename, u.release, u.version, u.machine);
    static char room[4096];
    struct sysinfo *s = (void *)room;
    int r = sysinfo(s);
    printf("sysinfo %d: %lu MiB, %s, %d processes\n", r, s->totalram >> 20,
           s->freeram > 0 && s->freeram < s->totalram ? "some free" : "odd", s->procs);
    printf("uname into nowhere: %s\n", said(uname((void *)8)));
    char path[4096];
    printf("cwd %s\n", getcwd(path, sizeof path) ? path : strerror(errno));
    struct stat st;
    printf("/etc/shadow: %s", said(stat("/etc/shadow", &st)));
    printf(", %s", said(fstatat(AT_FDCWD, "/etc/shadow", &st, AT_EMPTY_PATH)));
    printf(", %s\n", said(open("/etc/shadow", O_RDONLY)));
    printf("stdin: %s", said(fstatat(0, "", &st, AT_EMPTY_PATH)));
    printf(" %d\n", S_ISCHR(st.st_mode));
    printf("nothing: %s", said(stat("", &st)));
    printf(", %s\n", said(fstatat(0, "", &st, 0)));
    printf("mode of stdout: %s\n", said(fchmod(1, 04755)));
    const char *path_at = "";
    long result;
    register long flags __asm__("r10") = AT_EMPTY_PATH;
    __asm__ volatile("syscall" : "=a"(result), "+S"(path_at), "+r"(flags)
                     : "a"(SYS_newfstatat), "D"(0l), "d"(&st) : "rcx", "r11", "memory");
    printf("argument registers survive: %d\n", result == 0 && *path_at == 0 && flags == AT_EMPTY_PATH);
    int open = 0;
    for (int fd = 3; fd < 1100; fd++) open += fcntl(fd, F_GETFD) >= 0;
    printf("other descriptors: %d\n", open);
    long brk = syscall(SYS_brk, 0), grown = syscall(SYS_brk, brk + (1 << 20));
    memset((char *)brk, 1, 1 << 20);
    printf("heap at %#lx, grows by %#lx, ", brk - (((long)end + 4095) & -4096), grown - brk);
    printf("shrinks to %#lx\n", syscall(SYS_brk, brk) - brk);
    return 0;
}"#;

pub const SIGNALS: &str = r#"
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile int count;
static sigjmp_buf back;
static char stack[1 << 16];
static void plain(int s) { count += s; }
static void info(int s, siginfo_t *i, void *c) {
    printf("signal %d code %d from %s\n", s, i->si_code, i->si_pid == getpid() ? "itself" : "another");
}
static void on_stack(int s) {
    char here;
    printf("on its own stack: %d\n", &here >= stack && &here < stack + sizeof stack);
}
static void fault(int s, siginfo_t *i, void *c) {
    printf("fault %d at %p\n", s, s == SIGFPE ? 0 : i->si_addr);
    siglongjmp(back, 1);
}
static void mend(int s, siginfo_t *i, void *c) {
    mprotect((void *)((long)i->si_addr & -4096), 4096, PROT_READ | PROT_WRITE);
}
static void handle(int signal, void *handler, int flags) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = handler;
    a.sa_flags = flags;
    sigaction(signal, &a, 0);
}
int main(int c, char **v) {
    handle(SIGUSR1, plain, 0);
    kill(getpid(), SIGUSR1);
    raise(SIGUSR1);
    printf("handled %d\n", count);
    handle(SIGUSR2, info, SA_SIGINFO);
    kill(getpid(), SIGUSR2);
    raise(SIGUSR2);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    kill(getpid(), SIGUSR1);
    printf("blocked %d\n", count);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("unblocked %d\n", count);
    stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
    sigaltstack(&own, 0);
    handle(SIGTERM, on_stack, SA_ONSTACK);
    raise(SIGTERM);
    handle(SIGSEGV, fault, SA_SIGINFO);
    handle(SIGFPE, fault, SA_SIGINFO);
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1)) *(volatile int *)(0x100l + i) = 1;
    if (!sigsetjmp(back, 1)) { volatile int zero = 0; printf("%d\n", 1 / zero); }
    if (!sigsetjmp(back, 1)) *(volatile char *)(void *)main = 1; else puts("text is read-only");
    handle(SIGSEGV, mend, SA_SIGINFO);
    char *page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[7] = 7;
    printf("mended %d\n", page[7]);
    fflush(stdout);
    if (c > 1) { signal(atoi(v[1]), SIG_DFL); raise(atoi(v[1])); }
    return 3;
}"#;

/// Lists the signals that it ignores.
/// Says which signals it finds ignored and which blocked.
pub const INHERITED: &str = r#"
#include <signal.h>
#include <stdio.h>
int main(void) {
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, 0, &blocked);
    for (int s = 1; s < 32; s++) {
        struct sigaction a;
        if (!sigaction(s, 0, &a) && a.sa_handler == SIG_IGN) printf("%d is ignored\n", s);
        if (sigismember(&blocked, s)) printf("%d is blocked\n", s);
    }
    return 0;
}"#;

pub const SLEEP: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    struct timespec second = { 1, 0 }, a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    int r = syscall(SYS_nanosleep, &second, 0);
    int e = r ? errno : 0;
    clock_gettime(CLOCK_MONOTONIC, &b);
    long slept = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
    printf("%s, %s\n", r ? strerror(e) : "slept", slept >= 1000 ? "long enough" : "too short");
    return 0;
}"#;

pub const FILES: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int c, char **v) {
    for (int i = 1; i < c; i++) {
        int fd = v[i][0] == '+' ? open(v[i] + 1, O_CREAT | O_WRONLY, 06755) : open(v[i], O_RDONLY);
        printf("%s: %s\n", v[i], fd < 0 ? strerror(errno) : "open");
        if (fd >= 0 && v[i][0] == '+') fchmod(fd, 06755);
    }
    return 0;
}"#;

/// Changes the mode of its standard input, of a duplicate of it, and of a file of its own.
pub const MODES: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    printf("0: %s\n", fchmod(0, 0340) ? "refused" : "changed");
    dup2(0, 9);
    printf("9: %s\n", fchmod(9, 0340) ? "refused" : "changed");
    int own = open("/data/own", O_RDWR | O_CREAT, 0600);
    printf("own: %s\n", own < 0 ? "no file" : fchmod(own, 0640) ? "refused" : "changed");
    return 0;
}
"#;
