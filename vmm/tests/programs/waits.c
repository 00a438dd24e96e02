/* What waits: pipes, poll, select, epoll, timers. */
#include "told.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

static char buffer[200000];

static long ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
/* At least as long as that, and not for ever. */
#define TAKES(least, call) do { long start_ = ms(); T(call); long took_ = ms() - start_; printf("%s\n", took_ < least ? "too soon" : took_ > least + 60000 ? "too late" : "in time"); } while (0)

/* The least that is left of 60 s. */
#define LEFT(seconds) puts((seconds) >= 60 ? "all" : (seconds) < 20 ? "too little" : "left")
static const struct timespec fixed = {0, 1000000};
static void nothing(int signal) { }

int main(void)
{
    int a[2], b[2], e, t, n;
    signal(SIGPIPE, SIG_IGN);
    T(pipe(a)); T(pipe(b));
    struct pollfd polls[4] = {{a[0], POLLIN}, {a[1], POLLOUT}, {-1, POLLIN}, {77, POLLIN}};
    T(poll(polls, 4, 1000)); for (int i = 0; i < 4; i++) printf("%x ", polls[i].revents); puts("");
    TAKES(30, poll(polls, 1, 30)); T(poll(polls, 1, 0)); T(poll(0, 0, 0)); TAKES(20, poll(0, 0, 20)); T(poll((void *)1, 1, 0)); T(poll(polls, 1 << 30, 0));
    struct timespec soon = {0, 20000000}, never = {0, -1};
    TAKES(20, ppoll(polls, 1, &soon, 0)); T(ppoll(polls, 1, &never, 0));
    /* What is left of their time is told, however they end; where it cannot be written that is no error. */
    struct timespec rest = {60, 0}; T(syscall(SYS_ppoll, polls + 1, 1, &rest, 0, 8)); LEFT(rest.tv_sec);
    struct itimerval alarm = {{0, 0}, {0, 20000}}; fd_set none; struct timeval part = {60, 0}; signal(SIGALRM, nothing); FD_ZERO(&none); FD_SET(a[0], &none);
    rest = (struct timespec){60, 0}; T(setitimer(ITIMER_REAL, &alarm, 0)); T(syscall(SYS_ppoll, polls, 1, &rest, 0, 8)); LEFT(rest.tv_sec);
    T(setitimer(ITIMER_REAL, &alarm, 0)); T(syscall(SYS_select, a[0] + 1, &none, 0, 0, &part)); LEFT(part.tv_sec); printf("%d\n", part.tv_usec < 1000000);
    rest = (struct timespec){0, 10000000}; T(syscall(SYS_pselect6, 0, 0, 0, 0, &rest, 0)); printf("%ld %ld\n", (long)rest.tv_sec, (long)rest.tv_nsec);
    part = (struct timeval){0, 10000}; T(syscall(SYS_select, 0, 0, 0, 0, &part)); printf("%ld %ld\n", (long)part.tv_sec, (long)part.tv_usec);
    /* Of the first 64: what lies past the table of the process is not looked at, and a table is as large as who started it left it. */
    FD_SET(33, &none); rest = (struct timespec){60, 0}; T(syscall(SYS_pselect6, 34, &none, 0, 0, &rest, 0)); LEFT(rest.tv_sec); T(syscall(SYS_ppoll, 0, 0, &fixed, 0, 8));
    T(write(a[1], "hello", 5)); T(poll(polls, 1, -1)); printf("%x\n", polls[0].revents); T(read(a[0], buffer, 2)); T(read(a[0], buffer, 100));
    fd_set in, out;
    FD_ZERO(&in); FD_SET(a[0], &in); FD_ZERO(&out); FD_SET(a[1], &out);
    struct timeval time = {0, 30000};
    T(select(a[1] + 1, &in, &out, 0, &time)); printf("%d %d\n", !!FD_ISSET(a[0], &in), !!FD_ISSET(a[1], &out));
    FD_SET(a[0], &in); time = (struct timeval){0, 30000}; TAKES(30, select(a[0] + 1, &in, 0, 0, &time)); FD_ZERO(&in); FD_SET(33, &in); T(select(34, &in, 0, 0, 0)); T(select(-1, 0, 0, 0, 0)); FD_ZERO(&in); FD_SET(a[0], &in);
    TAKES(20, pselect(a[0] + 1, &in, 0, 0, &soon, 0));
    T(e = epoll_create1(EPOLL_CLOEXEC)); struct epoll_event event = {EPOLLIN, {.u64 = 42}}, found[4];
    T(epoll_ctl(e, EPOLL_CTL_ADD, a[0], &event)); T(epoll_ctl(e, EPOLL_CTL_ADD, a[0], &event)); T(epoll_ctl(e, EPOLL_CTL_MOD, b[0], &event)); T(epoll_ctl(e, EPOLL_CTL_ADD, e, &event)); T(epoll_ctl(e, EPOLL_CTL_ADD, 77, &event));
    T(epoll_wait(e, found, 4, 0)); TAKES(30, epoll_wait(e, found, 4, 30)); T(epoll_wait(e, found, 0, 0)); T(epoll_wait(a[0], found, 4, 0)); T(write(a[1], "x", 1)); T(epoll_wait(e, found, 4, -1)); printf("%x %lx\n", found[0].events, (long)found[0].data.u64);
    event.events = EPOLLIN | EPOLLET; T(epoll_ctl(e, EPOLL_CTL_MOD, a[0], &event)); T(epoll_wait(e, found, 4, 100)); T(epoll_wait(e, found, 4, 10)); T(epoll_pwait(e, found, 4, 10, 0)); T(epoll_ctl(e, EPOLL_CTL_DEL, a[0], 0));
    T(n = eventfd(3, EFD_SEMAPHORE)); uint64_t value = 0; T(read(n, &value, 8)); printf("%lu\n", (long)value); T(read(n, &value, 4)); value = 5; T(write(n, &value, 8)); T(read(n, &value, 8)); T(close(n));
    T(t = timerfd_create(CLOCK_MONOTONIC, 0)); struct itimerspec every = {{0, 10000000}, {0, 10000000}}; TAKES(10, (timerfd_settime(t, 0, &every, 0), read(t, &value, 8))); printf("%d\n", value >= 1); T(read(t, &value, 8));
    struct itimerspec left; T(timerfd_gettime(t, &left)); T(timerfd_settime(t, 0, &every, (void *)1)); T(close(t));
    /* A writer of more than fits, with a reader that is the same program, does not wait: it may not. */
    T(fcntl(b[1], F_SETFL, O_NONBLOCK)); T(write(b[1], buffer, sizeof buffer)); T(write(b[1], buffer, 10)); T(read(b[0], buffer, 65536)); T(write(b[1], buffer, 4096)); T(read(b[0], buffer, 65536)); T(fcntl(b[0], F_SETFL, O_NONBLOCK)); T(read(b[0], buffer, 1));
    int c2[2], d2[2]; T(pipe(c2)); T(socketpair(AF_UNIX, SOCK_STREAM, 0, d2)); T(write(d2[0], "spliced", 7)); T(splice(d2[1], 0, c2[1], 0, 100, SPLICE_F_NONBLOCK)); T(read(c2[0], buffer, 100)); T(splice(c2[0], 0, d2[1], 0, 100, SPLICE_F_NONBLOCK)); T(write(c2[1], "back", 4)); T(splice(c2[0], 0, d2[1], 0, 100, 0)); T(recv(d2[0], buffer, 100, 0)); T(splice(c2[0], 0, 77, 0, 100, 0)); T(splice(d2[0], 0, d2[1], 0, 1, 0)); loff_t at = 5; T(splice(c2[0], &at, d2[1], 0, 1, 0));
    T(close(a[0])); T(write(a[1], "x", 1)); polls[0].fd = a[1]; polls[0].events = POLLOUT; T(poll(polls, 1, 100)); printf("%x\n", polls[0].revents);
    /* Pairs of sockets. */
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, a)); T(send(a[0], "abcdef", 6, 0)); T(recv(a[1], buffer, 3, MSG_PEEK)); T(recv(a[1], buffer, 3, 0)); T(recv(a[1], buffer, 100, 0)); T(recv(a[1], buffer, 9, MSG_DONTWAIT));
    time = (struct timeval){0, 20000}; T(setsockopt(a[1], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time)); TAKES(20, recv(a[1], buffer, 9, 0)); TAKES(20, read(a[1], buffer, 9));
    T(shutdown(a[0], SHUT_WR)); T(read(a[1], buffer, 9)); T(send(a[0], "x", 1, 0)); T(send(a[0], "x", 1, MSG_NOSIGNAL));
    T(socketpair(AF_UNIX, SOCK_DGRAM, 0, b)); T(fcntl(b[0], F_SETFL, O_NONBLOCK)); T(send(b[0], "one", 3, 0)); T(send(b[0], "", 0, 0)); T(recv(b[1], buffer, 2, MSG_TRUNC)); T(recv(b[1], buffer, 9, 0));
    /* A descriptor on its way. */
    char control[CMSG_SPACE(4)]; struct iovec one = {"!", 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message); head->cmsg_level = SOL_SOCKET; head->cmsg_type = SCM_RIGHTS; head->cmsg_len = CMSG_LEN(4);
    int pair[2]; T(pipe(pair)); T(write(pair[1], "through", 7)); memcpy(CMSG_DATA(head), &pair[0], 4); T(sendmsg(b[0], &message, 0)); T(close(pair[0]));
    memset(control, 0, sizeof control); char byte; one.iov_base = &byte; message.msg_controllen = sizeof control; T(recvmsg(b[1], &message, 0)); int got = -1; memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), 4); T(read(got, buffer, 100)); printf("%.7s %d\n", buffer, (int)message.msg_controllen);
    int odd = 77; head->cmsg_level = SOL_SOCKET; head->cmsg_type = SCM_RIGHTS; head->cmsg_len = CMSG_LEN(4); memcpy(CMSG_DATA(head), &odd, 4); message.msg_controllen = sizeof control; T(sendmsg(b[0], &message, 0));
    T(accept(a[0], 0, 0)); T(accept(pair[1], 0, 0)); T(accept(e, 0, 0)); T(listen(pair[1], 5)); T(getsockname(pair[1], 0, 0)); T(recv(pair[1], buffer, 1, 0));
    struct timespec tiny = {0, 10000000}; TAKES(10, nanosleep(&tiny, 0)); TAKES(10, clock_nanosleep(CLOCK_MONOTONIC, 0, &tiny, 0));
    return 0;
}
