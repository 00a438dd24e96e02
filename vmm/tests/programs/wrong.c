/* Attributes of files, what a call says that is wrong in several ways, ints with a dirty upper half, clocks, and children
 * that there are none of; in the directory of the first argument. */
#include "told.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

/* An int as a compiler may leave it in its register. */
#define DIRTY(value) (0x5a5a00000000L | (unsigned)(value))
#define EMPTY AT_EMPTY_PATH
#define NOFOLLOW AT_SYMLINK_NOFOLLOW
#define NOWHERE ((void *)16)

static char large[200000], buffer[8192], longest[300], path[5000];

/* By each of the calls: of a path, of a link itself, of an open file. */
static void attributes(const char *what, int kind, long target)
{
    int set = SYS_setxattr + kind, get = SYS_getxattr + kind, list = SYS_listxattr + kind, drop = SYS_removexattr + kind;
    printf("%s %d\n", what, kind);
    T(syscall(set, target, "user.a", "12345", 5, 1));
    T(syscall(set, target, "user.a", "12345", 5, 1));
    T(syscall(set, target, "user.a", "1234567", 7, 2));
    T(syscall(set, target, "user.b", "", 0, 2));
    T(syscall(set, target, "user.a", "1", 1, 4));
    T(syscall(set, target, "user.a", "1", 1, DIRTY(2)));
    T(syscall(set, target, "", "1", 1, 0));
    T(syscall(set, target, 0, "1", 1, 0));
    T(syscall(set, target, longest, "1", 1, 0));
    T(syscall(set, target, "trusted.a", "1", 1, 0));
    T(syscall(set, target, "user.a", large, 65537, 0));
    T(syscall(set, target, "user.a", large, -1L, 0));
    T(syscall(set, target, "user.a", NOWHERE, 65537, 0));
    T(syscall(set, target, "user.a", NOWHERE, 5, 0));
    T(syscall(set, target, "user.a", NOWHERE, 5, 4));
    T(syscall(get, target, "user.a", buffer, 100));
    T(syscall(get, target, "user.a", buffer, 0));
    T(syscall(get, target, longest, buffer, 100));
    T(syscall(list, target, buffer, 1000));
    T(syscall(drop, target, ""));
    T(syscall(drop, target, NOWHERE));
    T(syscall(drop, target, longest));
    T(syscall(drop, target, "trusted.a"));
    T(syscall(drop, target, "user.a"));
    T(syscall(drop, target, "user.a"));
    T(syscall(list, target, buffer, 1000));
}

static void flags(const char *what, int fd, const char *named)
{
    static const int flags[] = {0, EMPTY, EMPTY | NOFOLLOW, NOFOLLOW, EMPTY | 0x200, EMPTY | 0x8000, 0x800, 0x10000};
    for (int i = 0; i < sizeof flags / sizeof *flags; i++) {
        int f = flags[i];
        printf("%s, %#x\n", what, f);
        T(syscall(SYS_newfstatat, fd, named, buffer, f));
        T(syscall(SYS_newfstatat, fd, named, NOWHERE, f));
        T(syscall(SYS_statx, fd, named, f, 0x7ff, buffer));
        T(syscall(439 /* faccessat2 */, fd, named, R_OK, f));
        T(syscall(SYS_utimensat, fd, named, 0, f));
        T(syscall(SYS_fchownat, fd, named, -1, -1, f));
        T(syscall(452 /* fchmodat2 */, fd, named, 0700, f));
    }
    printf("%s\n", what);
    T(syscall(SYS_mkdirat, fd, named, 0700));
    T(syscall(SYS_unlinkat, fd, named, 0x400));
    T(syscall(SYS_readlinkat, fd, named, buffer, 10));
    T(syscall(SYS_linkat, fd, named, AT_FDCWD, "f", 0));
    T(syscall(SYS_futimesat, fd, named, 0));
}

static void dirty(int fd)
{
    int pair[2], at;
    void *m = mmap(0, 16384, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct timespec now = {0};
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    struct iovec into = {buffer, 1};
    struct pollfd one = {fd, POLLIN};
    int size = 8192, timer;
    T(syscall(SYS_poll, &one, DIRTY(1), 0));
    T(syscall(SYS_ppoll, &one, DIRTY(1), &now, 0, 8));
    T(syscall(SYS_msync, m, 4096, DIRTY(MS_SYNC)));
    T(syscall(SYS_madvise, m, 4096, DIRTY(MADV_DONTNEED)));
    T(syscall(SYS_madvise, m, 4096, DIRTY(MADV_NORMAL)));
    T(syscall(SYS_mlock2, m, 4096, DIRTY(1)));
    /* The number itself is an int. */
    T(syscall(DIRTY(SYS_mmap), 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) > 0);
    T(syscall(DIRTY(SYS_mprotect), m, 4096, PROT_READ | PROT_WRITE));
    T(syscall(DIRTY(SYS_brk), 0) > 0);
    T(syscall(DIRTY(SYS_uname), buffer));
    T(syscall(DIRTY(SYS_prctl), 3 /* PR_GET_DUMPABLE */, 0, 0, 0, 0));
    T(syscall(DIRTY(SYS_open), "f", O_RDONLY) >= 0);
    T(syscall(DIRTY(SYS_getpid)) > 0);
    T(syscall(DIRTY(1000)));
    T(syscall(SYS_munlock, m, 4096));
    T(syscall(SYS_mremap, m, 4096, 1l << 47, 1 /* MAYMOVE */)); T(syscall(SYS_mremap, m, -8192l, 4096, 3, m + (1 << 20)));
    /* A heap keeps a page away from what follows. */
    long heap = syscall(SYS_brk, 0), next = (heap + 4095 & -4096) + 8192;
    T(mmap((void *)next, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | 0x100000 /* FIXED_NOREPLACE */, -1, 0) == (void *)next);
    T(syscall(SYS_brk, next) == heap); T(syscall(SYS_brk, next - 4096) == next - 4096); T(syscall(SYS_brk, heap) == heap);
    T(syscall(SYS_mlockall, 0L));
    T(syscall(SYS_mlockall, DIRTY(4)));
    T(syscall(SYS_sched_getaffinity, DIRTY(0), 128, buffer) > 0);
    T(syscall(SYS_get_robust_list, DIRTY(0), buffer, buffer + 8));
    T(syscall(SYS_linkat, AT_FDCWD, "f", AT_FDCWD, "linked", DIRTY(0)));
    T(syscall(SYS_renameat2, AT_FDCWD, "linked", AT_FDCWD, "again", DIRTY(1)));
    T(syscall(SYS_pipe2, pair, DIRTY(O_CLOEXEC)));
    T(syscall(SYS_membarrier, DIRTY(0), DIRTY(0)) > 0);
    T(syscall(SYS_preadv2, fd, &into, 1, 0, 0, DIRTY(0)));
    T(syscall(436 /* close_range */, 500, 510, DIRTY(0)));
    T(syscall(SYS_arch_prctl, DIRTY(0x1003), buffer));
    T(syscall(SYS_timer_create, DIRTY(CLOCK_MONOTONIC), &event, &timer));
    T(syscall(SYS_clock_nanosleep, DIRTY(CLOCK_MONOTONIC), DIRTY(0), &now, 0));
    T(at = socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    T(syscall(SYS_setsockopt, pair[0], DIRTY(SOL_SOCKET), DIRTY(SO_SNDBUF), &size, DIRTY(4)));
    T(syscall(SYS_setsockopt, pair[0], SOL_SOCKET, SO_SNDBUF, &size, -1));
}

static void clocks(void)
{
    static const int numbers[] = {0, 1, 3, 4, 5, 6, 7, 10, 11, 12, 40, -1, -2, -3, -4, -5, -6, -7, -8, (int)0x80000000};
    struct timespec time, past = {1, 0}, wrong = {0, -1};
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    for (int i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int clock = numbers[i], timer;
        printf("clock %d\n", clock);
        T(syscall(SYS_clock_gettime, clock, &time));
        T(syscall(SYS_clock_gettime, clock, 0));
        T(syscall(SYS_clock_getres, clock, &time));
        printf("%ld %ld\n", (long)time.tv_sec, (long)time.tv_nsec);
        T(syscall(SYS_clock_getres, clock, 0));
        if (clock < 0) continue;
        T(syscall(SYS_clock_nanosleep, clock, TIMER_ABSTIME, &past, 0));
        T(syscall(SYS_clock_nanosleep, clock, 0, &wrong, 0));
        /* Of processor time there are none. */
        if (clock == 3) continue;
        T(syscall(SYS_timer_create, clock, &event, &timer));
    }
    struct timespec real, atomic;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
    T(syscall(SYS_clock_gettime, CLOCK_TAI, &atomic));
    T(atomic.tv_sec - real.tv_sec < 100 && atomic.tv_sec >= real.tv_sec);
}

static void timers(void)
{
    struct itimerspec set = {{0, 0}, {100, 0}}, wrong = {{0, 0}, {0, 1000000000}}, had;
    struct itimerval every = {{0, 0}, {0, 1000000}}, old;
    struct sigevent event = {.sigev_notify = SIGEV_NONE}, odd = {.sigev_notify = 77};
    int timer = -1;
    T(syscall(SYS_timer_create, 40, NOWHERE, &timer));
    T(syscall(SYS_timer_create, 40, &odd, &timer));
    T(syscall(SYS_timer_create, CLOCK_MONOTONIC, &odd, NOWHERE));
    T(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, NOWHERE));
    T(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
    T(syscall(SYS_timer_settime, 999, 0, NOWHERE, 0));
    T(syscall(SYS_timer_settime, 999, 0, 0, 0));
    T(syscall(SYS_timer_settime, 999, 0, &set, NOWHERE));
    T(syscall(SYS_timer_settime, timer, 0, 0, 0));
    T(syscall(SYS_timer_settime, timer, 0, NOWHERE, 0));
    T(syscall(SYS_timer_settime, timer, 0, &wrong, 0));
    T(syscall(SYS_timer_settime, timer, DIRTY(0), &set, &had));
    printf("%ld %ld\n", (long)had.it_value.tv_sec, had.it_value.tv_nsec);
    T(syscall(SYS_timer_settime, timer, 0, &set, NOWHERE));
    T(syscall(SYS_timer_gettime, timer, NOWHERE));
    T(syscall(SYS_timer_gettime, 999, NOWHERE));
    T(syscall(SYS_timer_getoverrun, 999));
    T(syscall(SYS_timer_getoverrun, timer));
    T(syscall(SYS_timer_delete, timer));
    T(syscall(SYS_timer_delete, timer));
    T(syscall(SYS_getitimer, 40, NOWHERE));
    T(syscall(SYS_getitimer, ITIMER_REAL, NOWHERE));
    T(syscall(SYS_setitimer, 40, NOWHERE, 0));
    T(syscall(SYS_setitimer, 40, &every, 0));
    T(syscall(SYS_setitimer, 40, 0, &old));
    T(syscall(SYS_setitimer, ITIMER_REAL, &every, 0));
    T(syscall(SYS_setitimer, ITIMER_REAL, 0, NOWHERE));
    T(syscall(SYS_gettimeofday, NOWHERE, NOWHERE));
    T(syscall(SYS_gettimeofday, 0, NOWHERE));
}

static void children(void)
{
    static const int options[] = {0, WNOHANG, WUNTRACED | WCONTINUED, 0x10000000, 0x20000000, 0x40000000, (int)0x80000000};
    static const int ended[] = {WEXITED, WEXITED | WNOHANG | WNOWAIT, WSTOPPED, 0, WNOHANG, WEXITED | 0x10000000};
    static const int numbers[] = {-1, 0, 7, -7, (int)0x80000000};
    for (int n = 0; n < 5; n++) {
        for (int o = 0; o < sizeof options / sizeof *options; o++)
            T(syscall(SYS_wait4, numbers[n], 0, options[o], 0));
        for (int kind = 0; kind < 5; kind++)
            for (int o = 0; o < sizeof ended / sizeof *ended; o++)
                /* None is open by these numbers, or it is none of a process. */
                T(syscall(SYS_waitid, kind, numbers[n], 0, ended[o], 0));
    }
    siginfo_t info;
    memset(&info, 0x55, sizeof info);
    T(syscall(SYS_waitid, P_ALL, 0, &info, WEXITED, 0));
    printf("%x %x %x, %x %x %x\n", info.si_signo, info.si_errno, info.si_code, info.si_pid, info.si_uid, info.si_status);
    T(syscall(SYS_waitid, P_ALL, 0, NOWHERE, WEXITED, 0));
    T(syscall(SYS_waitid, P_ALL, 0, NOWHERE, 0, 0));
}

static void scheduling(void)
{
    struct sched_param none = {5};
    for (int policy = -1; policy < 7; policy++) {
        T(syscall(SYS_sched_get_priority_max, policy));
        T(syscall(SYS_sched_get_priority_min, policy));
    }
    /* Whoever runs tests may have them wait for others. */
    T(syscall(SYS_sched_getscheduler, 0) >= 0);
    T(syscall(SYS_sched_getscheduler, DIRTY(0)) >= 0);
    T(syscall(SYS_sched_getscheduler, getpid()) >= 0);
    T(syscall(SYS_sched_getscheduler, 99999999));
    T(syscall(SYS_sched_getparam, 0, &none));
    printf("%d\n", none.sched_priority);
    T(syscall(SYS_sched_getparam, 0, 0));
    T(syscall(SYS_sched_getparam, 0, NOWHERE));
    T(syscall(SYS_sched_getparam, 99999999, &none));
}

int main(int c, char **v)
{
    int fd, directory, place;
    T(chdir(v[1]));
    memset(longest, 'a', sizeof longest - 1);
    memcpy(longest, "user.", 5);
    memset(path, 'p', sizeof path - 1);
    T(fd = open("f", O_RDWR | O_CREAT, 0600));
    T(write(fd, "x", 1));
    T(symlink("f", "l"));
    T(symlink("none", "dangling"));
    T(mkdir("d", 0700));
    T(directory = open("d", O_RDONLY));
    T(place = open("f", O_PATH));
    for (int kind = 0; kind < 2; kind++) {
        attributes("a file", kind, (long)"f");
        attributes("a link", kind, (long)"l");
        attributes("a link to nothing", kind, (long)"dangling");
        attributes("a directory", kind, (long)"d");
        attributes("nothing", kind, (long)"nothing");
        attributes("no name", kind, (long)"");
        attributes("no path", kind, 0);
        attributes("a long path", kind, (long)path);
    }
    attributes("a file", 2, fd);
    attributes("a directory", 2, directory);
    attributes("a place", 2, place);
    attributes("what is not open", 2, 99);
    flags("a file, no name", fd, "");
    flags("a file, no path", fd, 0);
    flags("a file, a path nowhere", fd, NOWHERE);
    flags("a file, a long path", fd, path);
    flags("a directory, no name", directory, "");
    flags("a place, no name", place, "");
    flags("nothing open, no name", 99, "");
    flags("nothing open, no path", 99, 0);
    flags("nothing open, a path nowhere", 99, NOWHERE);
    flags("here, no name", AT_FDCWD, "");
    flags("here, a path nowhere", AT_FDCWD, NOWHERE);
    dirty(fd);
    clocks();
    timers();
    children();
    scheduling();
    return 0;
}
