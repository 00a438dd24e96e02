/* Signals and timers of a guest that is a process. Usage: WHAT. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static volatile int got, on_stack;
static char stack[65536];
static void handler(int s, siginfo_t *i, void *c) {
    char here;
    on_stack = &here >= stack && &here < stack + sizeof stack;
    got = s;
}
static void await(const char *what) {
    sigset_t none;
    sigemptyset(&none);
    while (!got) sigsuspend(&none);
    printf("%s: %d, on its own stack: %d\n", what, got, on_stack);
    got = 0;
}
/* The code at the end of the page by which the VMM left this process: a jump, and an invalid instruction. */
static int readable(unsigned long at) {
    return syscall(SYS_rt_sigprocmask, 99, at, 0, 8) < 0 && errno != EFAULT;
}
extern char __executable_start, end;
static void leave(void) {
    for (unsigned long at = 0x10000; at < 1ul << 30; at += 4096) {
        if (at + 4096 > (unsigned long)&__executable_start && at < (unsigned long)&end + (1 << 20)) continue;
        if (!readable(at)) continue;
        const unsigned char *p = (void *)at;
        for (int i = 0; i + 8 <= 512; i++)
            if (p[i] == 0xff && p[i + 1] == 0x25 && p[i + 6] == 0x0f && p[i + 7] == 0x0b)
                ((void (*)(void))(p + i + 6))();
    }
    puts("not found");
}

int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    if (argc > 1 && !strcmp(argv[1], "leave")) { leave(); return 0; }
    sigset_t set;
    sigemptyset(&set);
    int signals[] = { SIGALRM, SIGUSR1, SIGUSR2, SIGTERM, SIGHUP, SIGWINCH, SIGRTMIN };
    struct sigaction a = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    for (int i = 0; i < 7; i++) { sigaddset(&set, signals[i]); sigaction(signals[i], &a, 0); }
    sigprocmask(SIG_BLOCK, &set, 0);
    if (argc > 1 && !strcmp(argv[1], "from-outside")) {
        puts("ready");
        for (;;) {
            int s;
            sigwait(&set, &s);
            printf("%d\n", s);
            if (s == SIGTERM) return 3;
        }
    }
    stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
    sigaltstack(&own, 0);
    alarm(1);
    await("alarm");
    struct itimerval soon = { .it_value.tv_usec = 10000 };
    setitimer(ITIMER_REAL, &soon, 0);
    await("interval timer");
    timer_t timer;
    struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
    struct itimerspec once = { .it_value.tv_nsec = 10000000 };
    printf("timer: %d\n", timer_create(CLOCK_MONOTONIC, &e, &timer));
    timer_settime(timer, 0, &once, 0);
    await("timer");
    timer_delete(timer);
    e.sigev_notify = SIGEV_THREAD_ID;
    e.sigev_notify_thread_id = syscall(SYS_gettid);
    printf("for a thread: %d\n", timer_create(CLOCK_MONOTONIC, &e, &timer));
    timer_settime(timer, 0, &once, 0);
    await("timer");
    e.sigev_notify_thread_id = 1;
    printf("for another: %s\n", timer_create(CLOCK_MONOTONIC, &e, &timer) ? strerror(errno) : "made");
    union sigval value = { .sival_int = 42 };
    sigqueue(getpid(), SIGUSR1, value);
    siginfo_t info;
    struct timespec second = { 10, 0 }, now = { 0, 0 };
    printf("waited for: %d", sigtimedwait(&set, &info, &second));
    printf(" with %d\n", info.si_value.sival_int);
    printf("none: %s\n", sigtimedwait(&set, &info, &now) < 0 ? strerror(errno) : "one");
    raise(SIGUSR2);
    sigpending(&set);
    printf("pending: %d\n", sigismember(&set, SIGUSR2));
    printf("to another: %s", kill(getppid() ? getppid() : 1, 0) ? strerror(errno) : "sent");
    printf(", %s\n", kill(-1, 0) ? strerror(errno) : "sent");
    return 0;
}
