/* Says each signal that it has got. Usage: [WHAT]. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const struct { int number; const char *name; } signals[] = {
    {SIGINT, "INT"}, {SIGHUP, "HUP"}, {SIGTERM, "TERM"}, {SIGUSR1, "USR1"}, {SIGUSR2, "USR2"}, {SIGWINCH, "WINCH"}, {SIGCONT, "CONT"},
    {SIGTTIN, "TTIN"}, {SIGTTOU, "TTOU"},
};

static volatile int told;

static void say(const char *text)
{
    write(1, text, strlen(text));
}

static void heard(int signal, siginfo_t *info, void *none)
{
    char line[64];
    const char *name = "?";
    static int count;
    for (int i = 0; i < sizeof signals / sizeof *signals; i++)
        if (signals[i].number == signal) name = signals[i].name;
    sprintf(line, "%s %d\n", name, ++count);
    say(line);
    told = 1;
}

/* As programs that own a terminal do: they clear it, stop, and go on where they were. */
static void stops(int signal)
{
    say("stops\n");
    kill(0, SIGSTOP);
    say("goes on\n");
}

static int asks;

/* What a terminal sends to who uses it in its background; the third time it is once too often. */
static void asked(int signal, siginfo_t *info, void *none)
{
    char line[64];
    sprintf(line, "%s, code %d\n", signal == SIGTTIN ? "TTIN" : "TTOU", info->si_code);
    say(line);
    if (++asks % 3 == 0) sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, 0);
}

static void until_told(void)
{
    while (!told) usleep(1000);
    told = 0;
}

static void says(const char *what, long done)
{
    char line[64];
    sprintf(line, "%s %ld %d\n", what, done, done < 0 ? errno : 0);
    say(line);
}

/* Uses its terminal in every way. */
static void uses(const char *how)
{
    struct sigaction a = {.sa_sigaction = asked, .sa_flags = SA_SIGINFO | (strcmp(how, "again") ? 0 : SA_RESTART)};
    struct termios settings;
    sigset_t set;
    char bytes[64];
    int held[2], zeros = open("/dev/zero", O_RDONLY);
    pipe(held);
    write(held[1], "!", 1);
    sigemptyset(&set);
    sigaddset(&set, SIGTTIN);
    sigaddset(&set, SIGTTOU);
    if (!strcmp(how, "ignores")) a = (struct sigaction){.sa_handler = SIG_IGN};
    if (!strcmp(how, "stops")) a = (struct sigaction){.sa_handler = SIG_DFL};
    if (!strcmp(how, "blocks")) sigprocmask(SIG_BLOCK, &set, 0);
#define USES(what, call) until_told(), sigaction(SIGTTIN, &a, 0), sigaction(SIGTTOU, &a, 0), says(what, call)
    USES("read", read(0, bytes, sizeof bytes));
    USES("write", write(0, "!", 1));
    USES("set", (tcgetattr(0, &settings), tcsetattr(0, TCSANOW, &settings)));
    USES("flush", tcflush(0, TCIFLUSH));
    USES("splice from it", splice(0, 0, held[1], 0, 2, 0));
    USES("splice to it", splice(held[0], 0, 0, 0, 1, 0));
    USES("sendfile from it", sendfile(held[1], 0, 0, 2));
    USES("sendfile to it", sendfile(0, zeros, 0, 1));
    USES("drain", tcdrain(0));
    sigpending(&set);
    says("waits", sigismember(&set, SIGTTIN) + sigismember(&set, SIGTTOU));
}

/* Uses a terminal that goes away. */
static void loses(void)
{
    char bytes[64];
    until_told();
    says("read", read(0, bytes, sizeof bytes));
    says("read", read(0, bytes, sizeof bytes));
    says("write", write(0, "!", 1));
}

static void *waits(void *none)
{
    for (;;) pause();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    struct sigaction a = {.sa_sigaction = heard, .sa_flags = SA_SIGINFO | SA_RESTART};
    /* Stops by all that stops. */
    if (!strcmp(what, "asked")) {
        sigaction(SIGUSR1, &a, 0);
        say("ready\n");
        for (;;) pause();
    }
    /* Who is stopped in the middle of these goes on with them as if nothing had been, unless it is told of that. */
    int goes_on = !strcmp(what, "sleeps") || !strcmp(what, "reads") || !strcmp(what, "uses") || !strcmp(what, "loses");
    if (goes_on) {
        sigaction(SIGUSR1, &a, 0);
        const char *then = argc > 2 ? argv[2] : "";
        if (!strcmp(then, "ends")) a.sa_flags &= ~SA_RESTART;
        if (!strcmp(then, "ends") || !strcmp(then, "restarts")) sigaction(SIGCONT, &a, 0);
    }
    else if (strcmp(what, "default"))
        for (int i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i].number, &a, 0);
    if (!strcmp(what, "handled")) signal(SIGTSTP, stops);
    if (!strcmp(what, "itself")) {
        say("before\n");
        raise(SIGSTOP);
        say("after\n");
        raise(SIGTSTP);
        say("at last\n");
        return 5;
    }
    if (!strcmp(what, "many")) {
        for (int i = 0; i < 100000; i++) {
            char line[16];
            int length = sprintf(line, "%d\n", i);
            if (write(1, line, length) < 0) return 9;
        }
        return 0;
    }
    if (!strcmp(what, "threads")) {
        pthread_t thread;
        for (int i = 0; i < 3; i++) pthread_create(&thread, 0, waits, 0);
        say("ready\n");
        pthread_exit(0);
    }
    say("ready\n");
    if (goes_on) {
        char bytes[64];
        if (*what == 'u' || *what == 'l') {
            *what == 'u' ? uses(argv[2]) : loses();
            return 5;
        }
        until_told();
        long done = *what == 's' ? nanosleep(&(struct timespec){4, 0}, 0) : read(0, bytes, sizeof bytes);
        says(what, done);
        return 5;
    }
    /* Until SIGQUIT. */
    for (;;) pause();
}
