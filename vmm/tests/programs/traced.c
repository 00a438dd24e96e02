/* Makes calls whose lines in a trace are known, with two threads and a signal. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int ends[2];
static char buffer[64];

static void handler(int signal) { (void)signal; }

static volatile int number;
static void *reader(void *unused)
{
    (void)unused;
    number = syscall(SYS_gettid);
    read(ends[0], buffer, sizeof buffer);
    return 0;
}

int main(int c, char **v)
{
    struct stat status;
    struct timespec soon = {0, 1000};
    struct iovec parts[2] = {{"one \"1\"\n", 8}, {"\1\0002\377", 4}};
    pthread_t thread;
    if (c > 1 && !strcmp(v[1], "hurry")) {
        /* Its standard error waits for nobody. */
        fcntl(2, F_SETFL, O_WRONLY | O_NONBLOCK);
        for (int i = 0; i < 20000; i++) syscall(SYS_getuid);
        return 0;
    }
    if (c > 1 && !strcmp(v[1], "spoil")) {
        write(2, "exit_group(9) = ?\n", 18);
        syscall(SYS_ftruncate, 2, 0);
        syscall(SYS_lseek, 2, 0, SEEK_SET);
        close(2);
        return 0;
    }
    if (c > 1 && !strcmp(v[1], "fault"))
        return *(volatile int *)(long)(c + 6);
    syscall(SYS_open, "/no such\tfile", O_RDONLY);
    syscall(SYS_openat, AT_FDCWD, "/no such/x", O_WRONLY | O_CREAT | O_TRUNC, 0640);
    syscall(SYS_openat, 99, (char *)8, O_RDONLY | O_CLOEXEC);
    syscall(SYS_pipe2, ends, O_CLOEXEC);
    writev(ends[1], parts, 2);
    read(ends[0], buffer, sizeof buffer);
    syscall(SYS_fstat, ends[0], &status);
    mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &soon, 0);
    signal(SIGUSR1, handler);
    syscall(SYS_tkill, syscall(SYS_gettid), SIGUSR1);
    syscall(SYS_lseek, 0, -1l, SEEK_CUR);
    syscall(SYS_prctl, 77, 1, 2, 3, 4);
    syscall(SYS_io_uring_setup, 8, 0);
    syscall(SYS_kill, 1 << 20, 0);
    pthread_create(&thread, 0, reader, 0);
    usleep(20000);
    write(ends[1], "end", 3);
    pthread_join(thread, 0);
    /* Until nothing of it is left: one that is still about to end would end with its process. */
    while (syscall(SYS_tgkill, getpid(), number, 0) == 0) sched_yield();
    _exit(7);
}
