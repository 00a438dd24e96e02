/* Looks at what a program finds of its machine, and says what is not as it should be. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

static _Atomic int wrong;
#define CHECK(what) do { if (!(what)) { wrong++; printf("line %d: %s (%s)\n", __LINE__, #what, strerror(errno)); } } while (0)

static _Thread_local char text[1 << 16];

static long read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long length = 0, some;
    if (fd < 0) return text[0] = 0, -1;
    while ((some = read(fd, text + length, sizeof text - 1 - length)) > 0) length += some;
    text[length] = 0;
    close(fd);
    return length;
}

/* A field of a `stat` behind the name, from 3 on. */
static long field(const char *path, int number)
{
    char *at = read_file(path) > 0 ? strrchr(text, ')') : 0;
    for (int i = 2; at && i < number; i++) at = strchr(at + 1, ' ');
    return at ? atol(at) : -1;
}

static long number(const char *path, const char *key)
{
    if (read_file(path) < 0) return -1;
    char *at = strstr(text, key);
    return at ? strtol(at + strlen(key), 0, 10) : -1;
}

/* The rights of the area of /proc/self/maps that holds `address`. */
static const char *rights(const void *address)
{
    static char found[8];
    if (read_file("/proc/self/maps") < 0) return "none";
    for (char *line = strtok(text, "\n"); line; line = strtok(0, "\n")) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx %7s", &start, &end, found) == 3 &&
            start <= (unsigned long)address && (unsigned long)address < end) return found;
    }
    return "none";
}

static void live(void)
{
    const long size = 8 << 20;
    long before = number("/proc/meminfo", "MemFree:"), resident = number("/proc/self/status", "VmRSS:");
    char *more = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(!strcmp(rights(more), "rw-p"));
    memset(more, 1, size);
    CHECK(before - number("/proc/meminfo", "MemFree:") > 7000);
    CHECK(number("/proc/self/status", "VmRSS:") - resident > 7000);
    CHECK(number("/proc/meminfo", "MemTotal:") == 65536);
    long pages, all;
    CHECK(read_file("/proc/self/statm") > 0 && sscanf(text, "%ld %ld", &all, &pages) == 2);
    CHECK(all > size / 4096 && pages > 1700 && pages < 16384);
    mprotect(more, 4096, PROT_READ);
    CHECK(!strcmp(rights(more), "r--p"));
    munmap(more, size);
    CHECK(!strcmp(rights(more), "none"));
    CHECK(!strcmp(rights(live), "r-xp") || !strcmp(rights(live), "r-xs"));
    CHECK(!strcmp(rights(&size), "rw-p"));
}

static void process(int argc, char **argv)
{
    int pid = -1, parent = -1;
    char name[64] = "", state = 0;
    CHECK(read_file("/proc/self/stat") > 0);
    CHECK(sscanf(text, "%d (%63[^)]) %c %d", &pid, name, &state, &parent) == 4);
    CHECK(pid == getpid() && !strcmp(name, "small") && state == 'R' && parent == getppid());
    int fields = 1;
    for (char *at = text; *at; at++) fields += *at == ' ';
    CHECK(fields == 52);
    CHECK(number("/proc/self/status", "\nPid:") == getpid());
    CHECK(number("/proc/self/status", "\nPPid:") == getppid());
    CHECK(number("/proc/self/status", "\nThreads:") == 1);
    CHECK(number("/proc/self/status", "\nUid:") == getuid());
    sprintf(name, "/proc/%d/comm", getpid());
    CHECK(read_file(name) > 0 && !strcmp(text, "small\n"));
    CHECK(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "small"));
    prctl(PR_SET_NAME, "renamed");
    CHECK(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "renamed"));
    CHECK(read_file("/proc/thread-self/comm") > 0 && !strcmp(text, "renamed\n"));
    CHECK(read_file("/proc/self/cmdline") == (long)(strlen(argv[0]) + strlen(argv[1]) + 2));
    CHECK(!strcmp(text, argv[0]) && !strcmp(text + strlen(text) + 1, argv[1]));
    CHECK(read_file("/proc/self/environ") == 4 && !strcmp(text, "A=b"));
    CHECK(read_file("/proc/self/auxv") >= 16);
    unsigned long *pair = (void *)text, entry = 0;
    for (; pair[0]; pair += 2) if (pair[0] == AT_ENTRY) entry = pair[1];
    CHECK(entry && entry == getauxval(AT_ENTRY));
    CHECK(read_file("/proc/self/limits") > 0 && strstr(text, "Max open files"));
    long length = readlink("/proc/self/exe", text, sizeof text);
    CHECK(length == 6 && !memcmp(text, "/small", 6));
    CHECK(open("/proc/1000000/maps", O_RDONLY) < 0 && errno == ENOENT);
    (void)argc;
}

static void machine(void)
{
    struct timespec up;
    double told = 0;
    char first[64], again[64];
    clock_gettime(CLOCK_BOOTTIME, &up);
    CHECK(read_file("/proc/uptime") > 0 && sscanf(text, "%lf", &told) == 1);
    CHECK(told >= up.tv_sec - 1 && told <= up.tv_sec + 60);
    cpu_set_t processors;
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) == 1);
    CPU_ZERO(&processors);
    CHECK(syscall(SYS_sched_getaffinity, 0, sizeof processors, &processors) == 8 && CPU_COUNT(&processors) == 1);
    CHECK(syscall(SYS_sched_getaffinity, getpid(), 8, &processors) == 8);
    CHECK(syscall(SYS_sched_getaffinity, 0, 7, &processors) < 0 && errno == EINVAL);
    CHECK(syscall(SYS_sched_getaffinity, 0, 8, (void *)8) < 0 && errno == EFAULT);
    CHECK(syscall(SYS_sched_getaffinity, 1 << 21, 8, &processors) < 0 && errno == ESRCH);
    CHECK(sysconf(_SC_PHYS_PAGES) == 16384);
    CHECK(sysconf(_SC_AVPHYS_PAGES) > 0 && sysconf(_SC_AVPHYS_PAGES) < 16384);
    CHECK(read_file("/proc/cpuinfo") > 0 && strstr(text, "processor\t: 0\n") && !strstr(text, "processor\t: 1"));
    CHECK(read_file("/proc/stat") > 0 && !strncmp(text, "cpu  ", 5) && strstr(text, "\ncpu0 "));
    CHECK(read_file("/proc/loadavg") > 0);
    CHECK(read_file("/proc/sys/kernel/ostype") > 0 && !strcmp(text, "Linux\n"));
    CHECK(read_file("/proc/sys/kernel/random/uuid") == 37);
    strcpy(first, text);
    CHECK(read_file("/proc/sys/kernel/random/uuid") == 37 && strcmp(first, text));
    CHECK(read_file("/proc/sys/kernel/random/boot_id") == 37);
    strcpy(again, text);
    CHECK(read_file("/proc//sys/kernel/../kernel/random/boot_id") == 37 && !strcmp(again, text));
    CHECK(number("/proc/sys/vm/overcommit_memory", "") == 0);
    CHECK(read_file("/sys/devices/system/cpu/online") == 2 && !strcmp(text, "0\n"));
    CHECK(number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "") == 2 << 20);
    CHECK(number("/sys/fs/cgroup/memory.max", "") == 64 << 20);
    CHECK(getpwuid(getuid()) != 0);
    CHECK(read_file("/etc/localtime") > 40 && !memcmp(text, "TZif", 4));
    CHECK(read_file("/etc/services") > 0 && strstr(text, "https 443/tcp"));
}

static void rules(void)
{
    struct stat status;
    CHECK(stat("/proc/self/maps", &status) == 0 && S_ISREG(status.st_mode));
    CHECK(access("/proc/self/maps", R_OK) == 0);
    CHECK(access("/proc/self/nothing", F_OK) < 0 && errno == ENOENT);
    CHECK(open("/proc/self/maps", O_WRONLY) < 0 && errno == EACCES);
    CHECK(open("/proc/self/maps", O_RDONLY | O_DIRECTORY) < 0 && errno == ENOTDIR);
    CHECK(open("/dev/tty", O_RDWR) < 0 && errno == ENXIO);
    int fd = open("/proc/self/stat", O_RDONLY);
    CHECK(fd == 3 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0);
    CHECK(write(fd, "x", 1) < 0);
    CHECK(ftruncate(fd, 1 << 20) < 0);
    CHECK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    close(fd);
    fd = open("/dev/stdout", O_WRONLY | O_CLOEXEC);
    CHECK(fd == 3 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) && write(fd, "out\n", 4) == 4);
    close(fd);
    CHECK(open("/dev/fd/3", O_RDONLY) < 0 && errno == ENOENT);
    CHECK(lstat("/dev/stdin", &status) == 0 && S_ISLNK(status.st_mode));
    CHECK(stat("/dev/stdin", &status) == 0 && !S_ISLNK(status.st_mode));
    CHECK(access("/proc/self/fd/77", F_OK) < 0 && errno == ENOENT);
    CHECK(stat("/proc/self/fd/77", &status) < 0 && errno == ENOENT);
    CHECK(syscall(SYS_open, (char *)8, O_RDONLY) < 0 && errno == EFAULT);
    CHECK(syscall(SYS_stat, (char *)8, &status) < 0 && errno == EFAULT);
    /* A path of any length, and one that is too long. */
    static char path[5000] = "/proc";
    while (strlen(path) < 4000) strcat(path, "/./");
    strcat(path, "self/comm");
    CHECK(read_file(path) > 0);
    while (strlen(path) < 4900) strcat(path, "/x");
    CHECK(open(path, O_RDONLY) < 0 && errno == ENAMETOOLONG);
}

static void devices(void)
{
    static char zeros[64];
    struct stat status;
    int fd = open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(fd == 3 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0 && write(fd, text, 100) == 100);
    CHECK(fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3));
    CHECK(dup2(fd, 9) == 9 && close(9) == 0);
    close(fd);
    CHECK(read_file("/dev/null") == 0);
    fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    memset(text, 1, sizeof zeros);
    CHECK(fd == 3 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
    CHECK(read(fd, text, sizeof zeros) == sizeof zeros && !memcmp(text, zeros, sizeof zeros));
    char *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED && shared[7] == 0);
    close(fd);
    fd = open("/dev/urandom", O_RDONLY);
    CHECK(read(fd, text, sizeof zeros) == sizeof zeros && memcmp(text, zeros, sizeof zeros));
    close(fd);
    fd = open("/dev/random", O_RDONLY);
    CHECK(read(fd, text, sizeof zeros) == sizeof zeros);
    close(fd);
    fd = open("/dev/full", O_WRONLY);
    CHECK(write(fd, "x", 1) < 0 && errno == ENOSPC);
    close(fd);
    CHECK(stat("/dev/full", &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 7));
    CHECK(access("/dev/null", R_OK | W_OK) == 0);
    CHECK(open("/dev/null", O_RDONLY | O_DIRECTORY) < 0 && errno == ENOTDIR);
    CHECK(open("/dev/mem", O_RDONLY) < 0 && errno == ENOENT);
}

static void *reader(void *unused)
{
    for (int i = 0; i < 200; i++) CHECK(number("/proc/self/status", "\nThreads:") >= 2);
    return unused;
}

static void *opener(void *unused)
{
    for (int i = 0; i < 300; i++) {
        int null = open("/dev/null", O_RDWR), file = open("/proc/self/comm", O_RDONLY);
        char some[32];
        CHECK(null >= 0 && write(null, "x", 1) == 1 && read(null, some, 1) == 0);
        CHECK(file >= 0 && read(file, some, sizeof some) == 8);
        close(null);
        close(file);
    }
    return unused;
}

/* A thread has a name and a number of its own, and its process those of the first. */
static void *second(void *unused)
{
    char path[64];
    int thread = syscall(SYS_gettid);
    CHECK(prctl(PR_GET_NAME, path) == 0 && !strcmp(path, "renamed"));
    prctl(PR_SET_NAME, "second");
    CHECK(read_file("/proc/self/comm") == 8 && !strcmp(text, "renamed\n"));
    CHECK(read_file("/proc/thread-self/comm") == 7 && !strcmp(text, "second\n"));
    CHECK(read_file("/proc/self/stat") > 0 && atoi(text) == getpid());
    CHECK(read_file("/proc/thread-self/stat") > 0 && atoi(text) == thread);
    CHECK(number("/proc/thread-self/status", "\nPid:") == thread);
    CHECK(number("/proc/thread-self/status", "\nTgid:") == getpid());
    int nice = getpriority(PRIO_PROCESS, getpid());
    setpriority(PRIO_PROCESS, 0, 19);
    CHECK(field("/proc/thread-self/stat", 18) == 39 && field("/proc/thread-self/stat", 19) == 19);
    CHECK(field("/proc/self/stat", 18) == 20 + nice && field("/proc/self/stat", 19) == nice);
    sprintf(path, "/proc/self/task/%d/comm", thread);
    CHECK(read_file(path) == 7 && !strcmp(text, "second\n"));
    sprintf(path, "/proc/self/task/%d/comm", getpid());
    CHECK(read_file(path) == 8 && !strcmp(text, "renamed\n"));
    CHECK(open("/proc/self/task/4000000/comm", O_RDONLY) < 0 && errno == ENOENT);
    return unused;
}

/* The numbers that a directory lists, as bits. */
static unsigned long numbers(DIR *directory, int kind)
{
    unsigned long found = 0;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] == '.') continue;
        CHECK(entry->d_type == kind);
        found |= 1ul << atoi(entry->d_name) % 64;
    }
    return found;
}

static void *waits(void *gate)
{
    read(*(int *)gate, text, 1);
    return 0;
}

/* Of a guest with a file system: whatever leads there. */
static void places(void)
{
    CHECK(chdir("/proc/self") == 0);
    int fd = open("maps", O_RDONLY);
    CHECK(fd == 3 && read(fd, text, sizeof text) > 100 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0);
    close(fd);
    fd = open("maps", O_RDONLY | O_CLOEXEC);
    CHECK(fd == 3 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
    close(fd);
    CHECK(read_file("../uptime") > 0 && read_file("../thread-self/comm") == 6);
    CHECK(chdir("/") == 0 && read_file("proc/self/comm") == 6 && !strcmp(text, "small\n"));
    int directory = open("/proc", O_PATH | O_DIRECTORY);
    fd = openat(directory, "self/status", O_RDONLY);
    CHECK(fd == 4 && read(fd, text, sizeof text) > 100 && strstr(text, "Threads:\t1\n"));
    CHECK(write(fd, "x", 1) < 0 && mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
    close(fd);
    CHECK(openat(directory, "self/status", O_RDWR) < 0 && errno == EACCES);
    CHECK(openat(directory, "self/status", O_RDONLY | O_CREAT | O_EXCL, 0600) < 0 && errno == EEXIST);
    close(directory);
    CHECK(symlink("/proc/self/comm", "/tmp/comm") == 0 && read_file("/tmp/comm") == 6 && !strcmp(text, "small\n"));
    CHECK(symlink("/dev/stdout", "/tmp/log") == 0);
    fd = open("/tmp/log", O_WRONLY | O_CREAT | O_APPEND, 0644);
    CHECK(fd == 3 && write(fd, "logged\n", 7) == 7);
    close(fd);
    fd = syscall(SYS_creat, "/tmp/log", 0644);
    CHECK(fd == 3 && write(fd, "again\n", 6) == 6);
    close(fd);
    /* What is closed is not there, and nothing stays open for it. */
    CHECK(symlink("/dev/stdin", "/tmp/in") == 0 && symlink("/dev/stderr", "/tmp/err") == 0);
    int kept[] = { dup(0), 0, dup(2) };
    CHECK(close(0) == 0 && open("/tmp/in", O_RDONLY) < 0 && errno == ENOENT && fcntl(0, F_GETFD) < 0);
    CHECK(close(2) == 0 && open("/tmp/err", O_WRONLY) < 0 && errno == ENOENT && fcntl(0, F_GETFD) < 0);
    for (int i = 0; i < 3; i += 2) CHECK(dup2(kept[i], i) == i && close(kept[i]) == 0);

    int gate[2];
    pthread_t thread;
    pipe(gate);
    CHECK(dup2(gate[0], 40) == 40);
    DIR *list = opendir("/proc/self/fd");
    CHECK(list && numbers(list, DT_LNK) == (1ul << 40 | 0x3f));
    rewinddir(list);
    close(40);
    CHECK(numbers(list, DT_LNK) == 0x3f);
    CHECK(syscall(SYS_getdents64, dirfd(list), text, 64) == 0);
    rewinddir(list);
    CHECK(syscall(SYS_getdents64, dirfd(list), text, 0) < 0 && errno == EINVAL);
    CHECK(syscall(SYS_getdents64, dirfd(list), text, 30) == 24 && syscall(SYS_getdents64, dirfd(list), text, 30) == 24);
    CHECK(syscall(SYS_getdents, dirfd(list), text, 64) > 0);
    rewinddir(list);
    CHECK(syscall(SYS_getdents64, dirfd(list), (void *)8, 64) < 0 && errno == EFAULT);
    CHECK(numbers(list, DT_LNK) == 0x3f);
    closedir(list);
    pthread_create(&thread, 0, waits, gate);
    list = opendir("/proc/self/task");
    unsigned long threads = list ? numbers(list, DT_DIR) : 0;
    CHECK(__builtin_popcountl(threads) == 2 && threads >> getpid() % 64 & 1);
    closedir(list);
    write(gate[1], "x", 1);
    pthread_join(thread, 0);
    list = opendir("/dev/fd");
    for (struct dirent *entry; list && (entry = readdir(list));)
        if (atoi(entry->d_name) > 2 && atoi(entry->d_name) != dirfd(list)) close(atoi(entry->d_name));
    closedir(list);
    CHECK(fcntl(gate[0], F_GETFD) < 0 && fcntl(gate[1], F_GETFD) < 0);
}

/* Opens what says much about many areas, over and over. */
static void many(void)
{
    enum { AREAS = 4000, OPEN = 200 };
    char *area = mmap(0, AREAS * 8192l, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long i = 0; i < AREAS; i++) CHECK(mprotect(area + i * 8192, 4096, PROT_READ) == 0);
    long all = 0, last = 0;
    int open_now[OPEN];
    struct stat status;
    for (int i = 0; i < OPEN; i++) CHECK((open_now[i] = open("/proc/self/maps", O_RDONLY)) >= 0);
    for (int i = 0; i < OPEN; i++) {
        CHECK(fstat(open_now[i], &status) == 0);
        all += last = status.st_size;
    }
    CHECK(last > 2 * AREAS * 40 && all >= last && all <= 16 << 20);
    CHECK(read(open_now[OPEN - 1], text, sizeof text) == sizeof text && (strstr(text, " r-xp ") || strstr(text, " r-xs ")));
}

/* Its name ends inside of a character. */
static void named(void)
{
    prctl(PR_SET_NAME, "Verbindungsstr\xc3\xa4nge");
    for (int i = 0; i < 200; i++) {
        char *more = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(more != MAP_FAILED);
        if (more == MAP_FAILED) break;
        memset(more, 1, 1 << 20);
        munmap(more, 1 << 20);
    }
    CHECK(number("/proc/self/status", "VmRSS:") > 0);
    CHECK(read_file("/proc/self/comm") == 16 && text[14] == '\xc3');
}

/* It is a file that can be made larger. */
static int grows(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (write(fd, "x", 1) > 0 || ftruncate(fd, 1 << 20) == 0);
}

static volatile int opened = -1, stop;

/* With a table of descriptors of its own, if there were such a thing. */
static void *apart(void *unused)
{
    CHECK(syscall(SYS_close_range, 1000, 1000, 2) == 0);
    int fd = open("/proc/self/comm", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text) == 6 && !grows(fd));
    opened = fd;
    return unused;
}

/* Takes a descriptor away as soon as it is there. */
static void *taker(void *unused)
{
    while (!stop) {
        if (dup2(3, 100) < 0) continue;
        dup2(0, 3);
        CHECK(!grows(100));
    }
    return unused;
}

static void sealed(const char *path)
{
    pthread_t thread;
    CHECK(*path == '/' || chdir("/proc/self") == 0);
    pthread_create(&thread, 0, taker, 0);
    for (int i = 0; i < 2000; i++) {
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 3);
        if (fd > 3) close(fd);
        close(3);
    }
    stop = 1;
    pthread_join(thread, 0);
}

/* When the first thread has left. */
static void *last(void *first)
{
    pthread_join(*(pthread_t *)first, 0);
    CHECK(read_file("/proc/self/comm") == 6);
    int fd = open("/proc/self/comm", O_RDONLY);
    CHECK(fd >= 0 && !grows(fd));
    if (chdir("/proc/self") == 0) {
        CHECK(read_file("comm") == 6 && !strcmp(text, "small\n"));
        DIR *list = opendir("/tmp");
        CHECK(list && readdir(list));
        struct stat status;
        fd = open("/tmp/new", O_RDWR | O_CREAT, 0600);
        CHECK(fchmod(fd, 0640) == 0 && fstat(fd, &status) == 0 && (status.st_mode & 0777) == 0640);
    }
    printf("%d wrong\n", wrong);
    exit(wrong != 0);
}

/* Over and over, until somebody has something to say. */
static void stopped(void)
{
    struct pollfd input = { 0, POLLIN };
    CHECK(chdir("/proc/self") == 0);
    puts("ready");
    fflush(stdout);
    while (poll(&input, 1, 0) == 0) {
        int fd = open("comm", O_RDONLY);
        CHECK(fd == 3 && read(fd, text, sizeof text) == 6 && close(fd) == 0);
    }
}

static volatile int continues = 1;
static void *continues_all(void *unused)
{
    while (continues) kill(getpid(), SIGCONT);
    return 0;
}

/* It has what it has opened, and nothing else, however often it was told to go on. */
static void continued(void)
{
    pthread_t thread;
    CHECK(chdir("/proc/self") == 0);
    pthread_create(&thread, 0, continues_all, 0);
    int fd = 3;
    for (int i = 0; i < 5000 && fd == 3; i++) {
        fd = open("comm", O_RDONLY);
        CHECK(fd == 3 && read(fd, text, sizeof text) == 6 && close(fd) == 0);
    }
    continues = 0;
    pthread_join(thread, 0);
}

/* Where there is no way to have one. */
static void unheard(void)
{
    CHECK(open("/proc/self/comm", O_RDONLY) < 0 && errno == ENOENT);
    if (chdir("/proc/self") == 0)
        CHECK(open("comm", O_RDONLY) < 0 && errno == ENOENT);
    else
        CHECK(access("/proc/self/comm", F_OK) < 0 && errno == ENOENT);
    CHECK(dup(0) == 3);
    printf("%d wrong\n", wrong);
    exit(7);
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[1], "list")) {
        for (int i = 2; i < argc; i++) printf("%s: %s\n", argv[i], access(argv[i], F_OK) ? strerror(errno) : "there");
        return 0;
    }
    if (!strcmp(argv[1], "waits")) {
        printf("%d\n", getpid());
        fflush(stdout);
        return read(0, text, 1);
    }
    pthread_t threads[2];
    if (!strcmp(argv[1], "all")) {
        process(argc, argv);
        live();
        machine();
        rules();
        devices();
        pthread_create(threads, 0, second, 0);
        pthread_join(threads[0], 0);
        for (int i = 0; i < 2; i++) pthread_create(threads + i, 0, reader, 0);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
        for (int i = 0; i < 2; i++) pthread_create(threads + i, 0, opener, 0);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    }
    if (!strcmp(argv[1], "places")) places();
    if (!strcmp(argv[1], "many")) many();
    if (!strcmp(argv[1], "named")) named();
    if (!strcmp(argv[1], "apart")) {
        pthread_create(threads, 0, apart, 0);
        pthread_join(threads[0], 0);
        CHECK(fcntl(opened, F_GETFD) >= 0);
    }
    if (!strcmp(argv[1], "sealed")) sealed(argv[2]);
    if (!strcmp(argv[1], "stopped")) stopped();
    if (!strcmp(argv[1], "continued")) continued();
    if (!strcmp(argv[1], "unheard")) unheard();
    if (!strcmp(argv[1], "last")) {
        static pthread_t first;
        first = pthread_self();
        pthread_create(threads, 0, last, &first);
        pthread_exit(0);
    }
    printf("%d wrong\n", wrong);
    return wrong != 0;
}
