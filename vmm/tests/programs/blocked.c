/* One thread waits in the call that the first argument names, for ever; another ends the program. */
#include "told.h"
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>

static volatile int waits;
static char bytes[1 << 20];

static void *other(void *x)
{
    while (!waits) usleep(1000);
    for (int turn = 0; turn < 20; turn++) usleep(5000);
    /* Input and output may be what the other waits for. */
    _exit(7);
}

int main(int c, char **v)
{
    const char *what = v[1];
    int pipe_ends[2], pair[2], packets[2];
    long number;
    pthread_t thread;
    pipe(pipe_ends);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    int event = eventfd(0, 0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (!strcmp(what, "splice")) {
        fcntl(pipe_ends[1], F_SETPIPE_SZ, sizeof bytes);
        fcntl(pipe_ends[1], F_SETFL, O_NONBLOCK);
        while (write(pipe_ends[1], bytes, 65536) > 0) {}
    }
    pthread_create(&thread, 0, other, 0);
    waits = 1;
    if (!strcmp(what, "event")) read(event, &number, 8);
    if (!strcmp(what, "event full")) for (number = -2;;) write(event, &number, 8);
    if (!strcmp(what, "timer")) timerfd_settime(timer, 0, &(struct itimerspec){{0}, {1000, 0}}, 0), read(timer, &number, 8);
    if (!strcmp(what, "sendfile")) sendfile(pipe_ends[1], pair[0], 0, 100);
    if (!strcmp(what, "sendfile input")) sendfile(pipe_ends[1], 0, 0, 100);
    if (!strcmp(what, "splice")) for (;;) if (splice(pipe_ends[0], 0, pair[0], 0, sizeof bytes, 0) < 0) return 1;
    if (!strcmp(what, "terminal")) write(1, bytes, sizeof bytes);
    if (!strcmp(what, "shared")) while (read(0, bytes, 1) == 1) {}
    return 1;
}
