/* Looks at what a program finds of its machine, and says what is not as it should be. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int wrong;
#define CHECK(what) do { if (!(what)) { wrong++; printf("line %d: %s (%s)\n", __LINE__, #what, strerror(errno)); } } while (0)

static char text[1 << 16];

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
    CHECK(pid == getpid() && !strcmp(name, "small") && state == 'R' && parent == 0);
    int fields = 1;
    for (char *at = text; *at; at++) fields += *at == ' ';
    CHECK(fields == 52);
    CHECK(number("/proc/self/status", "\nPid:") == getpid());
    CHECK(number("/proc/self/status", "\nThreads:") == 1);
    CHECK(number("/proc/self/status", "\nUid:") == getuid());
    sprintf(name, "/proc/%d/comm", getpid());
    CHECK(read_file(name) > 0 && !strcmp(text, "small\n"));
    prctl(PR_SET_NAME, "renamed");
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
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1);
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
}

static void *reader(void *unused)
{
    for (int i = 0; i < 200; i++) CHECK(number("/proc/self/status", "\nThreads:") >= 2);
    return unused;
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[1], "list")) {
        for (int i = 2; i < argc; i++) printf("%s: %s\n", argv[i], access(argv[i], F_OK) ? strerror(errno) : "there");
        return 0;
    }
    process(argc, argv);
    live();
    machine();
    rules();
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(threads + i, 0, reader, 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    printf("%d wrong\n", wrong);
    return wrong != 0;
}
