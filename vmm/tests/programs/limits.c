/* Limits of resources: what is set is read back, and enforced where a program can notice. */
#include "told.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

static void set(int resource, rlim_t soft, rlim_t hard)
{
    struct rlimit limit = {soft, hard}, old, found = {7, 7};
    int set = prlimit(0, resource, &limit, &old), error = errno;
    int got = getrlimit(resource, &found);
    printf("%d to %lld %lld: %d %s, now %d %lld %lld\n", resource, (long long)soft, (long long)hard, set,
           set ? strerror(error) : "", got, (long long)found.rlim_cur, (long long)found.rlim_max);
    if (set == 0) {
        memset(&found, 7, sizeof found);
        set = syscall(SYS_prlimit64, getpid(), resource, NULL, &found);
        printf("  %d %lld %lld\n", set, (long long)found.rlim_cur, (long long)found.rlim_max);
    }
}

static void rules(void)
{
    struct rlimit limit = {1, 1};
    T(syscall(SYS_getrlimit, 16, &limit)); T(syscall(SYS_setrlimit, 16, &limit)); T(syscall(SYS_getrlimit, -1, &limit));
    T(syscall(SYS_getrlimit, 1, NULL)); T(syscall(SYS_setrlimit, 1, NULL)); T(syscall(SYS_setrlimit, 3, NULL));
    T(syscall(SYS_prlimit64, syscall(SYS_gettid), 1, NULL, &limit)); T(syscall(SYS_prlimit64, 1l << 32, 1, NULL, &limit));
    T(syscall(SYS_prlimit64, -1, 1, NULL, &limit)); T(syscall(SYS_prlimit64, 0, 1l << 32 | 3, NULL, &limit));
    T(syscall(SYS_prlimit64, 0, 3, 8, NULL)); T(syscall(SYS_prlimit64, 0, 1, NULL, NULL)); T(syscall(SYS_prlimit64, 0, 16, NULL, NULL));
    set(RLIMIT_CORE, 0, 0); set(RLIMIT_CORE, 0, 1); set(RLIMIT_CORE, 1, 0);
    set(RLIMIT_DATA, 64 << 20, 128 << 20); set(RLIMIT_DATA, 128 << 20, 128 << 20); set(RLIMIT_DATA, 64 << 20, 129 << 20);
    set(RLIMIT_DATA, RLIM_INFINITY, RLIM_INFINITY); set(RLIMIT_DATA, 65 << 20, 64 << 20); set(RLIMIT_DATA, 32 << 20, 64 << 20);
    set(RLIMIT_AS, 1l << 40, 2l << 40); set(RLIMIT_AS, 2l << 40, 2l << 40); set(RLIMIT_AS, 1, 3l << 40);
    set(RLIMIT_STACK, 1 << 20, 2 << 20); set(RLIMIT_STACK, 3 << 20, 3 << 20); set(RLIMIT_STACK, 2 << 20, 1 << 20);
    set(RLIMIT_NOFILE, 100, 200); set(RLIMIT_NOFILE, 201, 201); set(RLIMIT_NOFILE, 50, 200);
    set(RLIMIT_FSIZE, 1 << 16, 1 << 17); set(RLIMIT_FSIZE, 1 << 17, 1 << 17); set(RLIMIT_FSIZE, 1 << 16, 1 << 18);
    set(RLIMIT_CPU, 1000, 2000); set(RLIMIT_CPU, 2000, 3000); set(RLIMIT_NPROC, 100, 100); set(RLIMIT_NPROC, 100, 101);
    set(RLIMIT_SIGPENDING, 10, 20); set(RLIMIT_MSGQUEUE, 10, 20); set(RLIMIT_RTPRIO, 0, 0); set(RLIMIT_NICE, 0, 0);
}

static void descriptors(void)
{
    int pair[2], last = -1, fd;
    struct pollfd polls[100];
    set(RLIMIT_NOFILE, 42, 60);
    while ((fd = dup(1)) >= 0) last = fd;
    printf("last %d: %s\n", last, strerror(errno));
    T(dup2(1, 42)); T(dup2(1, 59)); T(dup2(1, 41)); T(dup3(1, 42, O_CLOEXEC)); T(fcntl(1, F_DUPFD, 42)); T(fcntl(1, F_DUPFD, 41));
    T(fcntl(1, F_DUPFD_CLOEXEC, 0)); T(pipe(pair)); T(socketpair(AF_UNIX, SOCK_STREAM, 0, pair)); T(open("/", O_RDONLY));
    T(epoll_create1(0)); T(eventfd(0, 0));
    close(41);
    T(pipe(pair)); T(dup(1));
    for (int n = 0; n < 100; n++) polls[n] = (struct pollfd){.fd = -1};
    T(poll(polls, 42, 0)); T(poll(polls, 43, 0));
    set(RLIMIT_NOFILE, 10, 60);
    T(write(41, "", 0)); T(dup(1)); T(poll(polls, 10, 0)); T(poll(polls, 11, 0)); T(usleep(1));
    fd_set set_of; FD_ZERO(&set_of); for (int n = 20; n < 42; n++) FD_SET(n, &set_of);
    T(select(42, NULL, &set_of, NULL, NULL) > 0);
    set(RLIMIT_NOFILE, 0, 60);
    struct pollfd one = {1, POLLOUT};
    T(poll(&one, 1, 0)); T(dup(1)); T(usleep(1));
    set(RLIMIT_NOFILE, 60, 60);
    T(dup(1)); T(poll(&one, 1, -1));
    T(syscall(436, 3, ~0u, 0));
}

static void *of_another_thread(void *first)
{
    struct rlimit limit = {1 << 20, 4 << 20}, found;
    T(syscall(SYS_prlimit64, *(int *)first, RLIMIT_CORE, NULL, &found)); T(syscall(SYS_prlimit64, syscall(SYS_gettid), RLIMIT_CORE, NULL, &found));
    T(syscall(SYS_prlimit64, syscall(SYS_gettid), RLIMIT_STACK, &limit, NULL)); T(getrlimit(RLIMIT_STACK, &found));
    printf("%ld %ld\n", (long)found.rlim_cur, (long)found.rlim_max);
    return NULL;
}

static volatile int signals, code, own;
static void count(int signal) { signals++; (void)signal; }
static void look(int signal, siginfo_t *info, void *context) { signals++; code = info->si_code; own = info->si_pid == getpid(); }

static void file_size(const char *directory)
{
    char path[200], bytes[3000] = {0};
    snprintf(path, sizeof path, "%s/size", directory);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    signal(SIGXFSZ, count);
    set(RLIMIT_FSIZE, 4096, 8192);
    T(write(fd, bytes, 3000)); T(write(fd, bytes, 3000)); printf("signals %d\n", signals);
    T(write(fd, bytes, 3000)); printf("signals %d\n", signals);
    T(pwrite(fd, bytes, 1, 4096)); T(pwrite(fd, bytes, 1, 4095)); T(ftruncate(fd, 4097)); T(ftruncate(fd, 4096)); T(truncate(path, 5000));
    T(fallocate(fd, 0, 0, 5000)); printf("signals %d\n", signals);
    /* It is there when the call returns, for the thread that made it, and from itself. */
    sigset_t set_of; sigemptyset(&set_of); sigaddset(&set_of, SIGXFSZ);
    struct sigaction action = {.sa_sigaction = look, .sa_flags = SA_SIGINFO};
    sigaction(SIGXFSZ, &action, NULL);
    T(pwrite(fd, bytes, 1, 4096)); printf("signals %d, code %d, own %d\n", signals, code, own);
    sigprocmask(SIG_BLOCK, &set_of, NULL);
    T(pwrite(fd, bytes, 1, 4096));
    siginfo_t info = {0}; struct timespec now = {0};
    T(sigtimedwait(&set_of, &info, &now)); printf("code %d, own %d\n", info.si_code, info.si_pid == getpid());
    T(sigtimedwait(&set_of, &info, &now));
    sigprocmask(SIG_UNBLOCK, &set_of, NULL);
    signal(SIGXFSZ, SIG_IGN);
    T(pwrite(fd, bytes, 1, 4096)); printf("signals %d\n", signals);
    set(RLIMIT_FSIZE, 8192, 8192);
    T(pwrite(fd, bytes, 1, 4096)); T(lseek(fd, 0, SEEK_END));
    close(fd);
}

static sigjmp_buf back;
static void overflow(int signal) { siglongjmp(back, signal); }

__attribute__((noinline)) static int deep(long bytes)
{
    volatile char room[4096];
    room[0] = bytes;
    return bytes <= 4096 ? room[0] : deep(bytes - 4096) + room[0];
}

static void grow(long bytes)
{
    int signal = sigsetjmp(back, 1);
    if (signal == 0) deep(bytes);
    printf("%ld KiB of stack: %d\n", bytes >> 10, signal);
    fflush(stdout);
}

static void stack(void)
{
    static char own[1 << 16];
    stack_t other = {.ss_sp = own, .ss_size = sizeof own};
    sigaltstack(&other, NULL);
    struct sigaction action = {.sa_handler = overflow, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    /* What is there from the beginning. */
    set(RLIMIT_STACK, 0, 4 << 20);
    grow(64 << 10); grow(512 << 10);
    set(RLIMIT_STACK, 256 << 10, 4 << 20);
    grow(100 << 10); grow(512 << 10); grow(100 << 10);
    set(RLIMIT_STACK, 2 << 20, 4 << 20);
    grow(1 << 20); grow(3 << 20);
    /* What is there stays. */
    set(RLIMIT_STACK, 256 << 10, 4 << 20);
    grow(900 << 10); grow(3 << 20);
    set(RLIMIT_STACK, 4 << 20, 4 << 20);
    grow(3 << 20);
    pthread_t thread; int first = syscall(SYS_gettid);
    pthread_create(&thread, NULL, of_another_thread, &first);
    pthread_join(thread, NULL);
}

#define MAP(length, bits) mmap(NULL, length, bits, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
#define M(call) do { errno = 0; void *at_ = (void *)(call); printf("%s: %s\n", #call, at_ == MAP_FAILED ? strerror(errno) : "mapped"); } while (0)

static int writable(char *at)
{
    int signal = sigsetjmp(back, 1);
    if (signal == 0) *(volatile char *)at = 7;
    return signal == 0;
}

/* Of several areas those become writable that there is room for, up to the first that there is none for. */
static void partly(void)
{
    struct rlimit limit;
    char *areas = MAP(12 * 4096, PROT_READ);
    for (int nth = 1; nth < 6; nth += 2) mprotect(areas + nth * 8192, 8192, PROT_NONE);
    getrlimit(RLIMIT_DATA, &limit);
    char *more = MAP(4096, PROT_READ);
    /* What there is, and a page. */
    limit.rlim_cur = 0;
    do {
        limit.rlim_cur += 4096;
        if (setrlimit(RLIMIT_DATA, &limit)) { puts("no limit is enough"); return; }
    } while (mprotect(more, 4096, PROT_READ | PROT_WRITE));
    limit.rlim_cur += 4 * 4096;
    setrlimit(RLIMIT_DATA, &limit);
    T(mprotect(areas, 12 * 4096, PROT_READ | PROT_WRITE));
    for (int nth = 0; nth < 12; nth++) printf("%d", writable(areas + nth * 4096));
    puts(" are writable");
    T(munmap(areas, 12 * 4096));
}

static void memory(void)
{
    char *none = MAP(1 << 20, PROT_NONE), *kept = MAP(1 << 20, PROT_READ | PROT_WRITE), *end = sbrk(0);
    /* None at all means as much as can be had, but for the heap. */
    partly();
    set(RLIMIT_DATA, 0, 64 << 20);
    M(sbrk(4096)); M(MAP(4096, PROT_READ | PROT_WRITE)); M(MAP(100 << 20, PROT_READ | PROT_WRITE));
    set(RLIMIT_DATA, 0, 0);
    M(sbrk(1 << 20)); printf("%d\n", sbrk(0) == end);
    M(MAP(4096, PROT_READ | PROT_WRITE)); M(MAP(4096, PROT_READ)); M(MAP(4096, PROT_NONE));
    T(mprotect(none, 4096, PROT_READ)); T(mprotect(none, 4096, PROT_READ | PROT_WRITE)); T(mprotect(kept, 4096, PROT_READ));
    M(mremap(kept + 65536, 65536, 131072, MREMAP_MAYMOVE)); M(mremap(kept + 65536, 65536, 65536, MREMAP_MAYMOVE));
    M(mmap(kept + 131072, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    T(munmap(kept + 131072, 4096)); M(MAP(4096, PROT_READ | PROT_WRITE));
    set(RLIMIT_AS, 1 << 20, 1 << 20);
    M(MAP(4096, PROT_READ)); M(MAP(4096, PROT_NONE)); M(mmap(kept, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    T(mprotect(none, 4096, PROT_NONE)); M(mremap(none, 4096, 8192, MREMAP_MAYMOVE)); T(munmap(none, 1 << 20));
}

/* Computes for a moment; not for ever, however long it has the processor for that. */
static void compute(void)
{
    struct timespec used;
    for (volatile long n = 0; n < 10000000; n++) {}
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    if (used.tv_sec < 30) return;
    puts("no limit");
    exit(1);
}

static void processor(void)
{
    signal(SIGXCPU, count);
    set(RLIMIT_CPU, 1, 2);
    while (signals == 0) compute();
    puts("out of time");
    fflush(stdout);
    /* The end comes at the hard limit. */
    for (;;) compute();
}

int main(int count_of, char **words)
{
    const char *what = count_of > 2 ? words[2] : "";
    if (!strcmp(what, "processor")) processor();
    file_size(words[1]);
    stack();
    descriptors();
    rules();
    memory();
    puts("done");
    return 0;
}
