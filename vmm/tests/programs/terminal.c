/* A shell with job control, at a terminal of its own, that runs one program and says what it saw of it. Usage: SCENARIO PROGRAM [ARGUMENT]... */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* PATIENCE: milliseconds for what is to come. WAYS: how many to use a terminal a program tries. */
enum { ROUNDS = 20, HASTE = 5000, PATIENCE = 120000, WAYS = 9 };

static int terminal, output;
static pid_t job;
static char held[4096];
static int length;

static void fail(const char *what)
{
    printf("failed: %s: %s\n", what, strerror(errno));
    kill(-job, SIGKILL);
    exit(1);
}

/* The next line that the program says. */
static const char *line(void)
{
    static char text[256];
    for (;;) {
        char *end = memchr(held, '\n', length);
        if (end) {
            int size = end - held;
            memcpy(text, held, size);
            text[size] = 0;
            length -= size + 1;
            memmove(held, end + 1, length);
            return text;
        }
        struct pollfd one = {output, POLLIN};
        if (poll(&one, 1, PATIENCE) != 1) fail("nothing was said");
        int got = read(output, held + length, sizeof held - length);
        if (got <= 0) return "(end)";
        length += got;
    }
}

static void type(char key)
{
    if (write(terminal, &key, 1) != 1) fail("typing");
}

static int waited(int options)
{
    int status;
    alarm(PATIENCE / 1000);
    if (waitpid(job, &status, options) != job) fail("waiting");
    alarm(0);
    if (WIFSTOPPED(status)) printf("stopped by %d\n", WSTOPSIG(status));
    else if (WIFCONTINUED(status)) puts("continued");
    else if (WIFSIGNALED(status)) printf("ended %d\n", 128 + WTERMSIG(status));
    else printf("ended %d\n", WEXITSTATUS(status));
    return status;
}

static void foreground(pid_t group)
{
    if (tcsetpgrp(30, group)) fail("tcsetpgrp");
}

/* How often threads of the job have given up a processor; -1 if one has something to do. */
static long pauses(void)
{
    long sum = 0;
    DIR *all = opendir("/proc");
    for (struct dirent *each; (each = readdir(all));) {
        char path[300], text[4096];
        int group = 0;
        snprintf(path, sizeof path, "/proc/%s/stat", each->d_name);
        FILE *file = atoi(each->d_name) ? fopen(path, "r") : 0;
        if (!file) continue;
        char *behind_name = fgets(text, sizeof text, file) ? strrchr(text, ')') : 0;
        if (behind_name) sscanf(behind_name, ") %*c %*d %d", &group);
        fclose(file);
        if (group != job) continue;
        snprintf(path, sizeof path, "/proc/%s/task", each->d_name);
        DIR *threads = opendir(path);
        for (struct dirent *thread; threads && (thread = readdir(threads));) {
            if (!atoi(thread->d_name)) continue;
            snprintf(path, sizeof path, "/proc/%s/task/%s/status", each->d_name, thread->d_name);
            file = fopen(path, "r");
            while (file && fgets(text, sizeof text, file)) {
                char state;
                long count;
                if (sscanf(text, "State: %c", &state) == 1 && state == 'R') sum = -1;
                if (sum >= 0 && sscanf(text, "voluntary_ctxt_switches: %ld", &count) == 1) sum += count;
            }
            if (file) fclose(file);
        }
        if (threads) closedir(threads);
    }
    closedir(all);
    return sum;
}

/* Waits until the job does nothing but wait: what it was told before it has done. */
static void rests(void)
{
    long before = -1;
    for (int looks = 0; looks < 5; looks++) {
        long now = pauses();
        if (now < 0 || now != before) looks = 0;
        before = now;
        usleep(10000);
    }
}

/* The line that comes of a signal is the only one. */
static void rounds(const char *what, void (*send)(int), int signal)
{
    const char *said = "";
    for (int i = 0; i < ROUNDS; i++) {
        send(signal);
        said = line();
    }
    printf("%s: %s\n", what, said);
}

static void to_group(int signal) { kill(-job, signal); }
static void to_one(int signal) { kill(job, signal); }
static void key(int signal) { type(3); }
static void resize(int columns)
{
    static int more;
    struct winsize size = {24, columns + ++more};
    ioctl(terminal, TIOCSWINSZ, &size);
}

static void all(void)
{
    static const int signals[] = {SIGINT, SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTTIN, SIGTTOU};
    rounds("keys", key, 0);
    rounds("sizes", resize, 80);
    for (int i = 0; i < 9; i++) rounds("to one", to_one, signals[i]);
    for (int i = 0; i < 9; i++) rounds("to the group", to_group, signals[i]);
    type(28);
    waited(0);
}

static void stop_and_go(void)
{
    type(26);
    waited(WUNTRACED);
    foreground(getpgrp());
    foreground(job);
    kill(-job, SIGCONT);
    puts(line());
    type(3);
    puts(line());
    /* Told alone. */
    kill(job, SIGTSTP);
    waited(WUNTRACED);
    kill(job, SIGCONT);
    puts(line());
    to_group(SIGTSTP);
    waited(WUNTRACED);
    to_group(SIGCONT);
    puts(line());
    kill(-job, SIGSTOP);
    waited(WUNTRACED);
    kill(-job, SIGCONT);
    puts(line());
    type(3);
    puts(line());
    type(28);
    waited(0);
}

static void handled(void)
{
    for (int i = 0; i < 3; i++) {
        type(26);
        puts(line());
        waited(WUNTRACED);
        kill(-job, SIGCONT);
        /* In either order. */
        const char *first = strdup(line()), *second = strdup(line());
        puts(strcmp(first, "goes on") && strcmp(second, "goes on") ? "it does not go on" : "goes on");
    }
    type(28);
    waited(0);
}

static void itself(void)
{
    puts(line());
    waited(WUNTRACED);
    kill(-job, SIGCONT);
    puts(line());
    waited(WUNTRACED);
    kill(job, SIGCONT);
    puts(line());
    waited(0);
}

/* What it says until it is through with the call that it was stopped in. */
static void told(void)
{
    const char *said;
    do puts(said = line());
    while (!strncmp(said, "CONT", 4) || !strncmp(said, "TT", 2));
}

static void type_line(void)
{
    type('x');
    type('\n');
}

/* Stopped in a call that goes on afterwards. */
static void sleeps(void)
{
    kill(job, SIGUSR1);
    puts(line());
    rests();
    type(26);
    waited(WUNTRACED);
    kill(-job, SIGCONT);
    told();
    waited(0);
}

/* A terminal stops who reads in its background. */
static void reads(void)
{
    foreground(getpgrp());
    kill(job, SIGUSR1);
    puts(line());
    waited(WUNTRACED);
    foreground(job);
    kill(-job, SIGCONT);
    type_line();
    told();
    waited(0);
}

/* There is something to read by the time that a reader goes on. */
static void reads_later(void)
{
    kill(job, SIGUSR1);
    puts(line());
    rests();
    type(26);
    waited(WUNTRACED);
    type_line();
    kill(-job, SIGCONT);
    told();
    waited(0);
}

/* A reader goes on in the background. */
static void reads_behind(void)
{
    kill(job, SIGUSR1);
    puts(line());
    rests();
    type(26);
    waited(WUNTRACED);
    foreground(getpgrp());
    kill(-job, SIGCONT);
    waited(WUNTRACED);
    foreground(job);
    kill(-job, SIGCONT);
    type_line();
    told();
    waited(0);
}

/* The terminal goes away while it is read from. */
static void hangs_up(void)
{
    kill(job, SIGUSR1);
    puts(line());
    rests();
    close(terminal);
    for (int i = 0; i < 3; i++) puts(line());
    waited(0);
}

/* Uses its terminal in the background, one thing after the other. */
static void background(int stops)
{
    struct termios settings;
    tcgetattr(30, &settings);
    settings.c_lflag |= TOSTOP;
    tcsetattr(30, TCSANOW, &settings);
    foreground(getpgrp());
    for (int i = 0; i < WAYS; i++) {
        kill(job, SIGUSR1);
        puts(line());
        if (stops) {
            int reads = WSTOPSIG(waited(WUNTRACED)) == SIGTTIN;
            foreground(job);
            kill(-job, SIGCONT);
            if (reads) type_line();
        }
        told();
        if (stops) foreground(getpgrp());
    }
    puts(line());
    waited(0);
}

static long long microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

/* It is to go on almost before it has stopped, and hears of that each time. */
static void in_haste(void)
{
    const char *said = "";
    for (int i = 0; i < HASTE; i++) {
        kill(job, SIGTSTP);
        for (long long begun = microseconds(); microseconds() - begun < i * 7 % 600;);
        kill(job, SIGCONT);
        said = line();
    }
    puts(said);
    kill(job, SIGQUIT);
    waited(0);
}

/* The job's first thread is stopped: it stays so until somebody has it go on. */
static int is_stopped(void)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", job);
    FILE *file = fopen(path, "r");
    if (!file) fail(path);
    char *behind_name = fgets(text, sizeof text, file) ? strrchr(text, ')') : 0;
    fclose(file);
    return behind_name && behind_name[2] == 'T';
}

static void stops_soon(const char *what, int signal)
{
    long long end = microseconds() + PATIENCE * 1000ll;
    while (!is_stopped())
        if (microseconds() > end) {
            printf("failed: %s %d does not stop it\n", what, signal);
            kill(-job, SIGKILL);
            exit(1);
        }
        else usleep(100);
}

static void ctrl_z(int signal) { type(26); }

/* What stops comes right behind what has the job go on after another stop: it is stopped each time, and goes on as it is told to. */
static void again_in_haste(void)
{
    static const int asks[] = {SIGTTOU, SIGTTIN, SIGTSTP};
    static void (*const goes_on[])(int) = {to_one, to_group};
    static const struct { const char *name; void (*send)(int); } ways[] = {{"to one", to_one}, {"to the group", to_group}, {"typed", ctrl_z}};
    for (int i = 0; i < 3 * 3 * 3 * ROUNDS; i++) {
        int first = asks[i % 3], second = asks[i / 3 % 3], way = i / 9 % 3;
        kill(job, first);
        stops_soon("at first", first);
        goes_on[way > 0](SIGCONT);
        ways[way].send(second);
        stops_soon(ways[way].name, second);
        kill(job, SIGCONT);
        kill(job, SIGUSR1);
        line();
    }
    kill(job, SIGUSR1);
    puts(line());
    kill(job, SIGQUIT);
    waited(0);
}

/* Stops in calls that wait for no longer than this, and until that is over. */
static void limits(int limit, const char *count)
{
    long long begun = microseconds(), end = begun + (limit + 100) * 1000ll;
    const char *said;
    rests();
    kill(-job, SIGTSTP);
    waited(WUNTRACED);
    if (microseconds() - begun >= limit * 1000ll) fail("stopping in time");
    while (microseconds() < end) usleep(10000);
    kill(-job, SIGCONT);
    do {
        kill(job, SIGUSR1);
        said = line();
    } while (strcmp(said, count));
    kill(job, SIGUSR2);
    while (strcmp(said = line(), "(end)")) puts(said);
    waited(0);
}

/* Stops in calls that wait, until so many have ended by that. */
static void calls(const char *count)
{
    const char *said;
    for (int i = 0; i < 1000; i++) {
        int status;
        kill(i & 1 ? job : -job, SIGTSTP);
        alarm(PATIENCE / 1000);
        if (waitpid(job, &status, WUNTRACED) != job || !WIFSTOPPED(status)) fail("waiting");
        alarm(0);
        kill(-job, SIGCONT);
        kill(job, SIGUSR1);
        said = line();
        if (!strcmp(said, count)) break;
    }
    puts(said);
    kill(job, SIGUSR2);
    while (strcmp(said = line(), "(end)")) puts(said);
    waited(0);
}

/* As timeout(1) ends what it runs: by its number, then by its group. */
static void by_default(int signal)
{
    kill(job, signal);
    kill(-job, signal);
    waited(0);
}

int main(int argc, char **argv)
{
    int said[2];
    const char *scenario = argv[1];
    terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal) || pipe2(said, O_CLOEXEC)) fail("making a terminal");
    signal(SIGTTOU, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    setsid();
    int own = open(ptsname(terminal), O_RDWR);
    if (own < 0 || ioctl(own, TIOCSCTTY, 0) || dup2(own, 30) != 30) fail("taking the terminal");
    setvbuf(stdout, 0, _IOLBF, 0);
    output = said[0];
    job = fork();
    if (!job) {
        setpgid(0, 0);
        tcsetpgrp(30, getpid());
        signal(SIGTTOU, SIG_DFL);
        signal(SIGHUP, SIG_DFL);
        dup2(30, 0);
        dup2(said[1], 1);
        close(30);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    setpgid(job, job);
    close(said[1]);
    if (strcmp(scenario, "itself")) {
        const char *first = line();
        if (strcmp(first, "ready")) puts(first);
    }
    if (!strcmp(scenario, "all")) all();
    if (!strcmp(scenario, "stop")) stop_and_go();
    if (!strcmp(scenario, "handled")) handled();
    if (!strcmp(scenario, "itself")) itself();
    if (!strcmp(scenario, "sleeps")) sleeps();
    if (!strcmp(scenario, "reads")) reads();
    if (!strcmp(scenario, "reads later")) reads_later();
    if (!strcmp(scenario, "reads behind")) reads_behind();
    if (!strcmp(scenario, "hangs up")) hangs_up();
    if (!strcmp(scenario, "background")) background(!strcmp(argv[argc - 1], "stops"));
    if (!strcmp(scenario, "calls")) calls(argv[argc - 1]);
    if (!strcmp(scenario, "in haste")) in_haste();
    if (!strcmp(scenario, "again in haste")) again_in_haste();
    if (!strcmp(scenario, "limits")) limits(atoi(argv[argc - 1]), argv[argc - 2]);
    if (!strcmp(scenario, "default")) by_default(atoi(argv[argc - 1]));
    return 0;
}
