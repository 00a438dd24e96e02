/* Who a process alone in its session is, how its threads are scheduled, what it asks of itself by prctl, barriers, and files of
 * kinds that are no files; in the directory of the first argument. */
#include "told.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define NOWHERE ((void *)16)
#define NOBODY 99999999
/* An int as a compiler may leave it in its register. */
#define DIRTY(value) (0x5a5a00000000L | (unsigned)(value))
#define MEMBARRIER(command, flags) syscall(SYS_membarrier, command, flags, 0)

static long other;

static void session(void)
{
    T(getpgrp() == getpid());
    T(getsid(0) == getpid());
    T(getpgid(0) == getpid());
    T(getpgid(getpid()) == getpid());
    T(getsid(getpid()) == getpid());
    T(getpgid(other) == getpid());
    T(getsid(other) == getpid());
    T(getpgid(NOBODY));
    T(getpgid(-1));
    T(getsid(NOBODY));
    T(getsid(-7));
    T(setsid());
    T(setpgid(0, 0));
    T(setpgid(0, getpid()));
    T(setpgid(getpid(), getpid()));
    T(setpgid(0, NOBODY));
    T(setpgid(0, -1));
    T(setpgid(-1, 0));
    T(setpgid(NOBODY, 0));
    T(setpgid(NOBODY, -1));
    T(setpgid(other, 0));
    T(syscall(SYS_setpgid, DIRTY(0), DIRTY(0)));
    T(syscall(SYS_getpgid, DIRTY(0)) == getpid());
    T(getppid() != getpid());
}

static void nice_values(void)
{
    static const int whose[] = {-1, PRIO_PROCESS, PRIO_PGRP, PRIO_USER, 3};
    int had = syscall(SYS_getpriority, PRIO_PROCESS, 0);
    for (int i = 0; i < 5; i++) {
        int which = whose[i];
        /* Others of this user may be anything, natively. */
        if (which == PRIO_USER) continue;
        T(syscall(SYS_getpriority, which, 0));
        T(syscall(SYS_getpriority, which, getpid()));
        T(syscall(SYS_getpriority, which, NOBODY));
        T(syscall(SYS_getpriority, which, -1));
        T(syscall(SYS_setpriority, which, NOBODY, 0));
    }
    T(syscall(SYS_setpriority, PRIO_PROCESS, 0, -20));
    T(syscall(SYS_setpriority, PRIO_PROCESS, DIRTY(0), DIRTY(19 - had + 2)) );
    T(setpriority(PRIO_PROCESS, 0, 3));
    T(getpriority(PRIO_PROCESS, 0));
    T(nice(2));
    T(nice(-1));
    T(getpriority(PRIO_PROCESS, 0));
    T(getpriority(PRIO_PROCESS, other));
    T(setpriority(PRIO_PROCESS, other, 7));
    T(getpriority(PRIO_PROCESS, other));
    T(setpriority(PRIO_PROCESS, 0, 1000));
    T(getpriority(PRIO_PROCESS, 0));
    T(setpriority(PRIO_PGRP, NOBODY, 19));
}

struct attributes { unsigned size, policy; unsigned long flags; int nice; unsigned priority; unsigned long times[3]; unsigned util[2]; };
#define SETATTR(pid, attr, flags) syscall(SYS_sched_setattr, pid, attr, flags)
#define GETATTR(pid, attr, size, flags) syscall(SYS_sched_getattr, pid, attr, size, flags)

static void policies(void)
{
    struct sched_param none = {0}, some = {5}, most = {100}, less = {-1};
    struct attributes a = {sizeof a};
    struct { struct attributes a; unsigned more[2]; } longer = {{sizeof longer}, {0, 1}};
    for (int policy = -1; policy < 9; policy++) {
        printf("policy %d\n", policy);
        T(syscall(SYS_sched_setscheduler, 0, policy, &some));
        T(syscall(SYS_sched_setscheduler, 0, policy, &most));
        T(syscall(SYS_sched_setscheduler, 0, policy, &less));
        T(syscall(SYS_sched_setscheduler, 0, policy, 0));
        T(syscall(SYS_sched_setscheduler, 0, policy, NOWHERE));
        T(syscall(SYS_sched_setscheduler, NOBODY, policy, &none));
        T(syscall(SYS_sched_setscheduler, NOBODY, policy, NOWHERE));
        T(syscall(SYS_sched_setscheduler, -1, policy, &none));
        /* What sched_ext is depends on the kernel, and who is idle stays so. */
        if (policy == 5 || policy == 7) continue;
        T(syscall(SYS_sched_setscheduler, DIRTY(0), DIRTY(policy), &none));
        T(syscall(SYS_sched_getscheduler, 0));
    }
    T(syscall(SYS_sched_setscheduler, 0, 3, &none));
    T(syscall(SYS_sched_setparam, 0, &none));
    T(syscall(SYS_sched_setparam, 0, &some));
    T(syscall(SYS_sched_setparam, 0, 0));
    T(syscall(SYS_sched_setparam, NOBODY, NOWHERE));
    T(syscall(SYS_sched_setparam, NOBODY, &none));
    T(syscall(SYS_sched_getscheduler, 0));
    T(syscall(SYS_sched_getscheduler, other));
    T(syscall(SYS_sched_getscheduler, -1));
    T(SETATTR(0, 0, 0));
    T(SETATTR(0, NOWHERE, 0));
    /* Too large, and cannot be told how large it may be: text. */
    T(SETATTR(0, (void *)"too large to be anything", 0));
    T(SETATTR(0, &a, 1));
    T(SETATTR(-1, &a, 0));
    T(SETATTR(NOBODY, &a, 0));
    T(SETATTR(0, &longer, 0));
    printf("%u\n", longer.a.size);
    longer.a.size = sizeof longer, longer.more[1] = 0, longer.a.policy = 3, longer.a.nice = 19;
    T(SETATTR(0, &longer, 0));
    a.size = 47;
    T(SETATTR(0, &a, 0));
    printf("%u\n", a.size);
    a.size = 0, a.nice = -5;
    T(SETATTR(0, &a, 0));
    a.nice = 19, a.flags = 1 << 20;
    T(SETATTR(0, &a, 0));
    a.flags = 8, a.policy = 1;
    T(SETATTR(0, &a, 0));
    a.flags = 0x10, a.policy = 0;
    T(SETATTR(0, &a, 0));
    a.policy = -1;
    T(SETATTR(0, &a, 0));
    T(GETATTR(0, &a, 47, 0));
    T(GETATTR(0, &a, 5000, 0));
    T(GETATTR(0, &a, 48, 1));
    T(GETATTR(0, 0, 48, 0));
    T(GETATTR(0, NOWHERE, 48, 0));
    T(GETATTR(NOBODY, &a, 48, 0));
    T(GETATTR(0, &a, 48, 0));
    printf("%u %lu %d %u\n", a.policy, a.flags, a.nice, a.priority);
    T(syscall(SYS_sched_setscheduler, 0, 0x40000000, &none));
    T(syscall(SYS_sched_getscheduler, 0));
    T(syscall(SYS_sched_setscheduler, 0, 0, &none));
    T(syscall(SYS_sched_setscheduler, 0, 0x40000000 | 5, &none));
    T(syscall(SYS_sched_setscheduler, 0, 0x40000000, &none));
    T(syscall(SYS_sched_getscheduler, 0));
}

static void processors(void)
{
    cpu_set_t set;
    unsigned long first = 1, none = 0, found[16] = {0};
    T(syscall(SYS_sched_setaffinity, 0, 8, &first));
    T(syscall(SYS_sched_getaffinity, 0, sizeof found, found) > 0);
    printf("%lx\n", found[0]);
    T(syscall(SYS_sched_getaffinity, other, sizeof found, found) > 0);
    T(syscall(SYS_sched_setaffinity, other, 8, &first));
    T(syscall(SYS_sched_setaffinity, 0, 8, &none));
    T(syscall(SYS_sched_setaffinity, 0, 0, &first));
    T(syscall(SYS_sched_setaffinity, 0, 1, &first));
    T(syscall(SYS_sched_setaffinity, 0, 8, NOWHERE));
    T(syscall(SYS_sched_setaffinity, NOBODY, 8, &none));
    T(syscall(SYS_sched_setaffinity, NOBODY, 8, NOWHERE));
    T(syscall(SYS_sched_setaffinity, -1, 8, &first));
    T(syscall(SYS_sched_getaffinity, -1, sizeof found, found));
    T(syscall(SYS_sched_getaffinity, NOBODY, sizeof found, found));
    T(syscall(SYS_sched_getaffinity, 0, 7, found));
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    T(pthread_setaffinity_np(pthread_self(), sizeof set, &set));
}

static void attributes(void)
{
    /* Those whose answer depends on the kernel or the processor, would end this, or change memory are left out. */
    static const int options[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 21, 23, 24, 25, 27, 28, 29, 30, 31, 32, 36, 37, 38, 39, 41, 42,
        43, 44, 47, 57, 58, 71, 999, -1, 0};
    static const unsigned long values[] = {0, 1, 2, 3, 64, 65, 1ul << 32, -1};
    for (int i = 0; i < sizeof options / sizeof *options; i++) {
        int o = options[i], number = -1;
        int told = o == 2 || o == 37 || o == 25;
        printf("option %d\n", o);
        if (told) {
            T(prctl(o, &number, 0, 0, 0));
            printf("%d\n", number);
            T(prctl(o, NOWHERE, 0, 0, 0));
            continue;
        }
        for (int v = 0; v < sizeof values / sizeof *values; v++) {
            /* The last slack stays. */
            if (o == 29 && values[v] == -1ul) continue;
            T(prctl(o, values[v], 0, 0, 0));
            /* Newer kernels have another argument there. */
            if (o == 41) continue;
            T(prctl(o, values[v], 1, 0, 0));
        }
        T(prctl(o, 1, 0, 0, 1));
    }
    int number;
    char name[17] = {0};
    T(prctl(PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0));
    T(prctl(PR_GET_PDEATHSIG, &number, 0, 0, 0));
    printf("%d\n", number);
    T(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    T(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    T(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    T(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    T(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
    T(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
    T(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    T(prctl(PR_SET_CHILD_SUBREAPER, 5, 0, 0, 0));
    T(prctl(PR_GET_CHILD_SUBREAPER, &number, 0, 0, 0));
    printf("%d\n", number);
    T(prctl(PR_SET_TIMERSLACK, 1234, 0, 0, 0));
    T(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
    T(prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0));
    T(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
    T(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    T(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    T(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
    T(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    T(prctl(PR_SET_NAME, "a name that is long", 0, 0, 0));
    T(prctl(PR_GET_NAME, name, 0, 0, 0));
    printf("%s\n", name);
    T(prctl(PR_SET_NAME, NOWHERE, 0, 0, 0));
    T(prctl(PR_GET_NAME, NOWHERE, 0, 0, 0));
    T(syscall(SYS_prctl, DIRTY(PR_GET_DUMPABLE), 0, 0, 0, 0));
    T(syscall(SYS_prctl, DIRTY(PR_CAPBSET_READ), 40, 0, 0, 0));
    T(syscall(SYS_prctl, PR_CAPBSET_READ, 1000, 0, 0, 0));
    for (int what = 0; what < 6; what++)
        for (int c = 0; c < 80; c += 20) T(prctl(PR_CAP_AMBIENT, what, c, 0, 0));
    T(prctl(PR_CAP_AMBIENT, DIRTY(4), 0, 0, 0));
    T(prctl(PR_SET_TIMERSLACK, 1ul << 63, 0, 0, 0));
    printf("%lx\n", syscall(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0));
    T(prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0));
}

/* Behind which there is nothing. */
static char *page_end(void)
{
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + 4096, 4096);
    return pages + 4096;
}

/* A name that the kernel does not take is none that the process has. */
static void named(void)
{
    char *end = page_end(), name[17] = {0}, shown[17];
    for (int length = 3; length < 18; length++) {
        memset(end - 17, 'a' + length, 17);
        printf("%d\n", length);
        T(prctl(PR_SET_NAME, end - length, 0, 0, 0));
        T(prctl(PR_GET_NAME, name, 0, 0, 0));
        int fd = open("/proc/self/comm", O_RDONLY), got = read(fd, shown, 16);
        printf("%s %.*s", name, got, shown);
        close(fd);
    }
    T(prctl(PR_SET_NAME, "alone", 0, 0, 0));
}

/* What is wrong with several things at once. */
static void orders(void)
{
    struct attributes a = {sizeof a, 6, 0, 0, 0, {10000000, 20000000, 30000000}};
    struct { long value; int signal, how, thread, rest[11]; } event = {0, SIGUSR1};
    struct itimerval wrong = {{1, -1}, {1, 0}};
    struct itimerspec bad = {{1, -1}, {1, 0}};
    char *end = page_end();
    siginfo_t info = {0};
    int timer, own = getpid(), thread = syscall(SYS_gettid);
    T(SETATTR(0, &a, 0));
    a.times[2] = 0;
    T(SETATTR(0, &a, 0));
    a.times[0] = 1000;
    T(SETATTR(0, &a, 0));
    a = (struct attributes){.size = 48, .flags = 0x20};
    T(SETATTR(0, &a, 0));
    a = (struct attributes){.size = sizeof a, .flags = 0x60, .nice = -3};
    T(SETATTR(0, &a, 0));
    a = (struct attributes){.size = sizeof a, .flags = 0x1060, .nice = -3};
    T(SETATTR(0, &a, 0));
    a = (struct attributes){.size = sizeof a, .flags = 0x10, .priority = 5};
    T(SETATTR(0, &a, 0));
    memset(end - 16, -1, 16);
    T(syscall(SYS_setitimer, 0, end - 16, 0));
    T(syscall(SYS_setitimer, 9, end - 16, 0));
    T(syscall(SYS_setitimer, 9, &wrong, 0));
    for (int how = 0; how < 6; how++)
        for (int signal = 0; signal < 66; signal += 13)
            for (int whose = -1; whose < 2; whose++) {
                event.how = how, event.signal = signal, event.thread = whose == 1 ? thread : whose;
                T(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) >= 0 && !timer_delete((timer_t)(long)timer));
            }
    T(syscall(SYS_timer_create, CLOCK_MONOTONIC, end - 40, &timer));
    T(syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, &timer));
    T(syscall(SYS_timer_settime, timer, 0, end - 16, 0));
    T(syscall(SYS_timer_settime, timer, 0, &bad, 0));
    T(syscall(SYS_timer_settime, NOBODY, 0, &bad, 0));
    T(syscall(SYS_timer_delete, timer));
    static const int signals[] = {0, 65, -1};
    for (int i = 0; i < 3; i++) {
        T(kill(NOBODY, signals[i]));
        T(kill(-NOBODY, signals[i]));
        T(kill(own, signals[i]));
        T(kill(-own, signals[i]));
        T(kill(0, signals[i]));
        T(syscall(SYS_tkill, NOBODY, signals[i]));
        T(syscall(SYS_tgkill, 0, own, signals[i]));
        T(syscall(SYS_tgkill, -1, NOBODY, signals[i]));
        T(syscall(SYS_tgkill, NOBODY, own, signals[i]));
        T(syscall(SYS_tgkill, own, NOBODY, signals[i]));
        info.si_code = SI_QUEUE;
        T(syscall(SYS_rt_sigqueueinfo, NOBODY, signals[i], &info));
        T(syscall(SYS_rt_sigqueueinfo, own, signals[i], &info));
        T(syscall(SYS_rt_tgsigqueueinfo, own, NOBODY, signals[i], &info));
        T(syscall(SYS_rt_tgsigqueueinfo, 0, own, signals[i], &info));
    }
    T(syscall(SYS_rt_sigqueueinfo, own, 65, NOWHERE));
}

static int strangers[2];
static void *inherits(void *none)
{
    unsigned long found = 0;
    if (prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0) != 1) __atomic_fetch_add(strangers, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_sched_getaffinity, 0, 8, &found);
    if (found != 1) __atomic_fetch_add(strangers + 1, 1, __ATOMIC_SEQ_CST);
    return 0;
}

/* A thread has what it inherits from its beginning on. */
static void inheritance(void)
{
    unsigned long first = 1;
    T(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
    T(syscall(SYS_sched_setaffinity, 0, 8, &first));
    for (int round = 0; round < 250; round++) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) pthread_create(threads + i, 0, inherits, 0);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    }
    printf("strangers: %d %d\n", strangers[0], strangers[1]);
    T(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0));
}

static void *outlives(void *first)
{
    struct { long value; int signal, how, thread, rest[11]; } event = {0, SIGUSR1, 4, getpid()};
    unsigned header[2] = {0x20080522, getpid()};
    unsigned long words[16] = {1};
    int own = getpid(), timer;
    struct sched_param none = {0};
    struct timespec time;
    pthread_join(*(pthread_t *)first, 0);
    T(getpgid(own) == own);
    T(getsid(own) == own);
    T(setpgid(own, 0));
    T(setpgid(0, 0));
    T(syscall(SYS_getpriority, 0, own));
    T(syscall(SYS_setpriority, 0, own, 19));
    T(syscall(SYS_getpriority, 0, own));
    T(syscall(SYS_sched_getscheduler, own));
    T(syscall(SYS_sched_getparam, own, &none));
    T(syscall(SYS_sched_getaffinity, own, 128, words) > 0);
    words[0] = 1;
    T(syscall(SYS_sched_setaffinity, own, 8, words));
    T(kill(own, 0));
    T(syscall(SYS_tkill, own, 0));
    T(syscall(SYS_tkill, own, 65));
    T(syscall(SYS_tgkill, own, own, SIGTERM));
    T(syscall(SYS_get_robust_list, own, words, words + 1));
    T(clock_gettime(~own << 3 | 6, &time));
    T(syscall(SYS_capget, header, words));
    T(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
    exit(0);
}

static void barriers(void)
{
    /* Those for restartable sequences are not a guest's. */
    const long known = 0x27f;
    T(MEMBARRIER(0, 0) & known);
    T(MEMBARRIER(0, 1));
    T(MEMBARRIER(512, 0) & known);
    for (int command = 1; command < 64; command *= 2) {
        /* Registrations. */
        if (command == 4 || command == 16) continue;
        T(MEMBARRIER(command, 0));
        T(MEMBARRIER(command, 1));
    }
    T(MEMBARRIER(3, 0));
    T(MEMBARRIER(1024, 0));
    T(MEMBARRIER(-1, 0));
    T(MEMBARRIER(64, 0));
    T(MEMBARRIER(8, 0));
    T(MEMBARRIER(32, 0));
    T(MEMBARRIER(512, 0) & known);
    T(MEMBARRIER(16, 0));
    T(MEMBARRIER(DIRTY(8), DIRTY(0)));
    T(MEMBARRIER(4, 0));
    T(MEMBARRIER(512, 0) & known);
}

static void nodes(void)
{
    static const unsigned kinds[] = {0, S_IFREG, S_IFIFO, S_IFSOCK, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, 0x3000, 0xf000};
    struct stat s;
    char name[16], byte = 'x';
    int fd, directory;
    T(mkdir("d", 0700));
    T(directory = open("d", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        printf("kind %o\n", kinds[i]);
        sprintf(name, "n%d", i);
        T(mknod(name, kinds[i] | 0640, 0x103));
        memset(&s, 0, sizeof s);
        T(stat(name, &s));
        printf("%o %ld %ld\n", s.st_mode, (long)s.st_nlink, (long)s.st_size);
        T(mknodat(directory, name, kinds[i] | 0600, 0x103));
        T(access(name, R_OK | W_OK));
    }
    T(mknod("", S_IFIFO | 0600, 0));
    T(mknod(NOWHERE, S_IFIFO | 0600, 0));
    T(mknod("no/where", S_IFIFO | 0600, 0));
    T(mknod("d/", S_IFIFO | 0600, 0));
    T(mknodat(99, "x", S_IFIFO | 0600, 0));
    umask(027);
    T(mkfifo("pipe", 0666));
    T(stat("pipe", &s));
    printf("%o\n", s.st_mode);
    T(mkfifo("pipe", 0666));
    T(open("pipe", O_WRONLY | O_NONBLOCK));
    T(fd = open("pipe", O_RDWR));
    T(fcntl(fd, F_GETFL) & O_NONBLOCK);
    T(write(fd, "y", 1));
    T(read(fd, &byte, 1));
    printf("%c\n", byte);
    T(close(fd));
    T(fd = open("pipe", O_RDONLY | O_NONBLOCK));
    T(read(fd, &byte, 1));
    T(close(fd));
    T(unlink("pipe"));
    T(open("n3", O_RDONLY));
}

static void messages(void)
{
    int pair[2], none = 99;
    char bytes[8] = {0};
    struct iovec one = {bytes, 8}, wrong = {NOWHERE, 8};
    struct sockaddr_un name = {AF_UNIX, "/none"};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1}, many = {.msg_iov = &one, .msg_iovlen = 1025},
        nowhere = {.msg_iov = NOWHERE, .msg_iovlen = 1}, away = {.msg_iov = &wrong, .msg_iovlen = 1},
        named = {.msg_name = NOWHERE, .msg_namelen = 16, .msg_iov = &one, .msg_iovlen = 1025},
        less = {.msg_name = &name, .msg_namelen = -1, .msg_iov = &one, .msg_iovlen = 1025},
        control = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = NOWHERE, .msg_controllen = 64},
        large = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = bytes, .msg_controllen = 1ul << 31},
        empty = {.msg_name = NOWHERE, .msg_namelen = 0, .msg_iov = &one, .msg_iovlen = 1};
    struct { const char *what; struct msghdr *header; } all[] = {{"plain", &m}, {"many", &many}, {"nowhere", &nowhere}, {"away", &away},
        {"named", &named}, {"less", &less}, {"control", &control}, {"large", &large}, {"empty", &empty}, {"none", NOWHERE}};
    int fds[4];
    socklen_t size = 1000;
    T(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    fds[0] = pair[0], fds[1] = none, fds[2] = open("f", O_RDWR | O_CREAT, 0600), fds[3] = -1;
    for (int f = 0; f < 4; f++) {
        for (int i = 0; i < sizeof all / sizeof *all; i++) {
            printf("%d %s\n", f, all[i].what);
            struct msghdr sent, got;
            struct msghdr *to = all[i].header, *from = to;
            if (to != NOWHERE) sent = *to, got = *to, to = &sent, from = &got;
            T(syscall(SYS_sendmsg, fds[f], to, MSG_NOSIGNAL));
            /* What is received with a name or a length that is wrong is another matter. */
            if (i >= 4 && i != 5 && i != 9) continue;
            T(syscall(SYS_recvmsg, fds[f], from, 0));
        }
        T(sendto(fds[f], bytes, 1, MSG_NOSIGNAL, NOWHERE, 16));
        T(sendto(fds[f], bytes, 1, MSG_NOSIGNAL, (void *)&name, 1000));
        if (!f) continue;
        T(recvfrom(fds[f], bytes, 1, 0, (void *)&name, NOWHERE));
        T(recvfrom(fds[f], bytes, 1, 0, (void *)&name, &size));
    }
}

static void open_files(void)
{
    static const int flags[] = {0, 0x100, 0x200, 0x1000, 0x1100, 0x1200, 0x1300, 0x1800, 0x400};
    for (int i = 0; i < sizeof flags / sizeof *flags; i++)
        for (int fd = -1; fd < 3; fd++)
            for (int mode = 0; mode < 9; mode += 4)
                if (mode != 4 || fd < 1) T(syscall(439 /* faccessat2 */, fd, "", mode, flags[i]));
    T(syscall(439, 0, 0, 4, 0x1000));
    T(syscall(439, 0, NOWHERE, 4, 0x1000));
}

static volatile int over;
static void *waits(void *none)
{
    __atomic_store_n(&other, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    while (!over) usleep(1000);
    return 0;
}

int main(int c, char **v)
{
    pthread_t thread;
    T(chdir(v[1]));
    pthread_create(&thread, 0, waits, 0);
    while (!__atomic_load_n(&other, __ATOMIC_SEQ_CST)) sched_yield();
    session();
    attributes();
    processors();
    nice_values();
    policies();
    barriers();
    over = 1;
    pthread_join(thread, 0);
    nodes();
    messages();
    open_files();
    named();
    orders();
    inheritance();
    pthread_t first = pthread_self();
    pthread_create(&thread, 0, outlives, &first);
    pthread_exit(0);
}
