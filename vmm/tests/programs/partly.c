/* Buffers that are partly there or not at all, and what of a call comes before they are looked at: of sockets, pipes and files, in the
 * directory of the first argument. */
#include "told.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>

#define NOWHERE ((void *)16)
/* Where no program has memory. */
#define BEYOND ((void *)(1l << 47))
#define NOW MSG_DONTWAIT

static char buffer[64], *end;

/* Behind which there is nothing. */
static char *page_end(void)
{
    char *pages = mmap(0, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + 8192, 4096);
    return pages + 8192;
}

/* A page's end behind which there is one that came later, so that they need not be neighbours anywhere else. */
static char *seam(void)
{
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *others;
    munmap(pages + 4096, 4096);
    pages[0] = 1;
    others = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(others, 1, 65536);
    mmap(pages + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    pages[4096] = 1;
    return pages + 4096;
}

static void local(int type, int *pair)
{
    struct sockaddr_in a = {AF_INET}, b;
    socklen_t length = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (type == SOCK_DGRAM) {
        for (int i = 0; i < 2; i++) {
            pair[i] = socket(AF_INET, type, 0);
            bind(pair[i], (void *)&a, sizeof a);
        }
        for (int i = 0; i < 2; i++) {
            length = sizeof b;
            getsockname(pair[!i], (void *)&b, &length);
            connect(pair[i], (void *)&b, length);
        }
        return;
    }
    int listener = socket(AF_INET, type, 0);
    bind(listener, (void *)&a, sizeof a);
    getsockname(listener, (void *)&a, &length);
    listen(listener, 1);
    pair[0] = socket(AF_INET, type, 0);
    connect(pair[0], (void *)&a, length);
    pair[1] = accept(listener, 0, 0);
    close(listener);
}

static int sender;
static void *later(void *none)
{
    usleep(100000);
    send(sender, "12345", 5, 0);
    return 0;
}

static void *two_later(void *none)
{
    usleep(50000);
    send(sender, "a", 1, 0);
    usleep(100000);
    send(sender, "b", 1, 0);
    return 0;
}

#define LEFT() T(recv(b, buffer, 64, NOW))
#define GOES() send(a, "0123456789", 10, 0)

static void pieces(int a, int b)
{
    char two[4];
    struct iovec out[3] = {{"ab", 2}, {NOWHERE, 3}, {"cd", 2}}, in[3] = {{two, 2}, {NOWHERE, 3}, {buffer, 2}};
    struct msghdr m = {.msg_iov = out, .msg_iovlen = 3};
    T(send(a, end - 4, 100, NOW));
    LEFT();
    T(sendto(a, end - 4, 4, NOW, 0, 0));
    T(recv(b, end - 8, 100, NOW));
    GOES();
    T(recv(b, end - 4, 100, NOW));
    LEFT();
    GOES();
    T(recv(b, NOWHERE, 100, NOW));
    LEFT();
    GOES();
    T(recv(b, BEYOND, 100, NOW));
    T(recv(b, NOWHERE, 0, NOW));
    T(recv(b, buffer, 3, NOW | MSG_TRUNC));
    LEFT();
    T(send(a, NOWHERE, 0, NOW));
    LEFT();
    T(write(a, buffer, 0));
    LEFT();
    T(writev(a, out, 0));
    LEFT();
    T(send(a, end - 4, 1l << 31, NOW));
    LEFT();
    T(sendmsg(a, &m, NOW));
    LEFT();
    T(writev(a, out, 3));
    LEFT();
    GOES();
    m.msg_iov = in;
    T(recvmsg(b, &m, NOW));
    LEFT();
    GOES();
    T(readv(b, in, 3));
    LEFT();
}

static void names(int a, int b)
{
    struct sockaddr_storage name;
    socklen_t length;
    struct iovec one = {buffer, 64};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_name = &name, .msg_namelen = 1000};
    GOES();
    T(recvmsg(b, &m, 0));
    printf("%u %x %ld\n", m.msg_namelen, m.msg_flags, m.msg_controllen);
    m.msg_namelen = 3;
    GOES();
    T(recvmsg(b, &m, 0));
    printf("%u\n", m.msg_namelen);
    m.msg_namelen = -1;
    GOES();
    T(recvmsg(b, &m, 0));
    LEFT();
    m.msg_name = NOWHERE, m.msg_namelen = 16;
    GOES();
    T(recvmsg(b, &m, 0));
    LEFT();
    m.msg_name = 0, m.msg_namelen = 77, m.msg_control = NOWHERE, m.msg_controllen = 64;
    GOES();
    T(recvmsg(b, &m, 0));
    LEFT();
    length = 3;
    GOES();
    T(recvfrom(b, buffer, 64, 0, (void *)&name, &length));
    printf("%u\n", length);
    length = -1;
    GOES();
    T(recvfrom(b, buffer, 64, 0, (void *)&name, &length));
    LEFT();
    GOES();
    T(recvfrom(b, buffer, 64, 0, (void *)&name, NOWHERE));
    LEFT();
    length = 16;
    GOES();
    T(recvfrom(b, buffer, 64, 0, NOWHERE, &length));
    LEFT();
    GOES();
    T(recvfrom(b, buffer, 64, 0, 0, NOWHERE));
    LEFT();
}

static void many(int a, int b)
{
    struct mmsghdr all[3] = {0};
    struct iovec one[3];
    char bytes[3][8];
    pthread_t thread;
    struct timespec minute = {60, 0}, wrong = {0, 1000000000}, moment = {0, 1}, none = {0, 0};
    for (int i = 0; i < 3; i++) {
        one[i].iov_base = bytes[i], one[i].iov_len = 8;
        all[i].msg_hdr.msg_iov = one + i, all[i].msg_hdr.msg_iovlen = 1;
    }
    T(recvmmsg(b, all, 3, NOW, &wrong));
    T(recvmmsg(b, all, 3, NOW, NOWHERE));
    T(recvmmsg(b, all, 0, NOW, 0));
    T(recvmmsg(b, NOWHERE, 3, NOW, 0));
    T(recvmmsg(99, all, 3, 0, &wrong));
    T(recvmmsg(99, NOWHERE, 0, 0, 0));
    T(recvmmsg(0, NOWHERE, 3, 0, 0));
    T(recvmmsg(0, all, 0, 0, 0));
    sender = a;
    pthread_create(&thread, 0, two_later, 0);
    T(recvmmsg(b, all, 2, 0, &minute));
    printf("some is left: %d\n", minute.tv_sec > 0 && minute.tv_sec < 60);
    pthread_join(thread, 0);
    LEFT();
    send(a, "p", 1, 0);
    T(recvmmsg(b, all, 2, 0, &moment));
    printf("%ld %ld\n", moment.tv_sec, moment.tv_nsec);
    send(a, "p", 1, 0);
    T(recvmmsg(b, all, 2, 0, &none));
    send(a, "p", 1, 0);
    T(recvmmsg(b, all, 2, MSG_WAITFORONE, 0));
    T(sendmmsg(a, all, 0, 0));
    T(sendmmsg(a, NOWHERE, 2, 0));
    T(sendmmsg(99, NOWHERE, 0, 0));
    T(sendmmsg(0, NOWHERE, 0, 0));
    for (int i = 0; i < 3; i++) one[i].iov_len = 1;
    all[1].msg_hdr.msg_iov = NOWHERE;
    T(sendmmsg(a, all, 3, 0));
    LEFT();
    LEFT();
}

static void ends(int a, int b)
{
    pthread_t thread;
    sender = a;
    send(a, "abc", 3, 0);
    pthread_create(&thread, 0, later, 0);
    T(recv(b, buffer, 8, MSG_PEEK | MSG_WAITALL));
    pthread_join(thread, 0);
    T(recv(b, buffer, 8, MSG_WAITALL));
    send(a, "abc", 3, 0);
    T(recv(b, buffer, 8, MSG_PEEK | MSG_WAITALL | NOW));
    shutdown(a, SHUT_WR);
    T(recv(b, buffer, 8, MSG_PEEK | MSG_WAITALL));
    T(recv(b, buffer, 8, MSG_WAITALL));
    T(recv(b, NOWHERE, 5, 0));
    T(recv(b, BEYOND, 5, 0));
    T(read(b, NOWHERE, 5));
    T(send(a, NOWHERE, 4, 0));
    T(send(a, NOWHERE, 0, 0));
    T(write(a, NOWHERE, 4));
    T(write(a, NOWHERE, 0));
}

/* What goes along with a message lies nowhere. */
static void along(int a, int b)
{
    char control[CMSG_SPACE(sizeof a)] = {0};
    struct iovec one = {buffer, 64};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_controllen = 8};
    struct cmsghdr *rights = (void *)control;
    T(sendmsg(a, &m, NOW));
    LEFT();
    rights->cmsg_len = CMSG_LEN(sizeof a), rights->cmsg_level = SOL_SOCKET, rights->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(rights), &a, sizeof a);
    m.msg_control = control, m.msg_controllen = sizeof control;
    for (int i = 0; i < 2; i++) {
        int lowest = dup(0);
        close(lowest);
        one.iov_len = 5;
        T(sendmsg(a, &m, NOW));
        struct msghdr in = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = i ? NOWHERE : 0, .msg_controllen = i ? 64 : 0};
        one.iov_len = 64;
        T(recvmsg(b, &in, NOW));
        printf("%x %ld, descriptors %d\n", in.msg_flags, (long)in.msg_controllen, dup(0) - lowest);
        close(lowest);
    }
}

/* Files that take and give eight bytes at a time. */
static void records(char *middle)
{
    uint64_t value = 5;
    int count = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), full = open("/dev/full", O_RDWR);
    struct itimerspec once = {{0, 0}, {0, 1}};
    struct iovec two[2] = {{middle - 4, 8}, {middle - 12, 8}}, halves[2] = {{middle - 4, 4}, {buffer, 4}};
    struct pollfd expired = {timer, POLLIN};
    memcpy(middle - 4, &value, 8);
    memset(middle - 12, 0, 8);
    T(write(count, middle - 4, 8));
    memset(middle - 4, 0, 8);
    T(read(count, middle - 4, 8));
    printf("%d\n", *(middle - 4));
    T(writev(count, two, 2));
    T(writev(count, halves, 2));
    T(readv(count, halves, 2));
    T(write(count, middle - 4, 9));
    T(write(count, middle - 4, 4));
    T(write(count, end - 8, 4096));
    T(write(count, end - 4, 8));
    T(read(count, middle - 4, 4));
    timerfd_settime(timer, 0, &once, 0);
    poll(&expired, 1, -1);
    T(read(timer, middle - 4, 8));
    T(write(count, buffer, 0));
    T(read(count, buffer, 0));
    T(read(timer, buffer, 0));
    T(write(full, buffer, 0));
    T(pwrite(full, buffer, 0, 0));
    T(writev(full, two, 0));
}

static void vectors(void)
{
    int nothing = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDWR);
    struct iovec far[2] = {{buffer, 1l << 46}, {buffer, 1l << 47}}, none = {(void *)-4096l, 0}, wrong[2] = {{BEYOND, 4}, {buffer, 1l << 63}};
    T(writev(nothing, far, 1));
    T(writev(nothing, far, 2));
    T(writev(nothing, &none, 1));
    T(writev(nothing, wrong, 1));
    T(writev(nothing, wrong, 2));
    T(syscall(SYS_readv, zero, far, 1l << 32));
    T(pwrite(zero, end - 4, 8192, 0));
}

static void broken(void)
{
    struct sockaddr_in name = {AF_INET, htons(1)};
    struct pollfd wrong;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    T(recv(s, NOWHERE, 4, 0));
    T(send(s, NOWHERE, 4, MSG_NOSIGNAL));
    T(connect(s, (void *)&name, sizeof name));
    T(recv(s, NOWHERE, 4, 0));
    close(s);
    s = socket(AF_INET, SOCK_DGRAM, 0);
    connect(s, (void *)&name, sizeof name);
    for (int i = 0; i < 2; i++) {
        T(send(s, "x", 1, 0));
        wrong = (struct pollfd){s, 0, 0};
        poll(&wrong, 1, -1);
        if (i) T(send(s, NOWHERE, 4, 0));
        else T(recv(s, NOWHERE, 4, 0));
        T(recv(s, NOWHERE, 4, NOW));
    }
    T(recv(0, NOWHERE, 4, 0));
    T(recv(99, NOWHERE, 4, 0));
    close(s);
}

static void files(void)
{
    int p[2], fd, directory;
    struct iovec some[3] = {{end - 4, 4}, {NOWHERE, 3}, {buffer, 2}};
    T(pipe2(p, O_NONBLOCK));
    T(write(p[1], end - 4, 100));
    T(read(p[0], buffer, 64));
    T(writev(p[1], some, 3));
    T(read(p[0], buffer, 64));
    T(read(p[0], NOWHERE, 4));
    T(read(p[0], BEYOND, 4));
    T(write(p[1], "0123456789", 10));
    T(read(p[0], end - 4, 100));
    T(read(p[0], buffer, 64));
    T(write(p[1], NOWHERE, 0));
    T(write(p[1], BEYOND, 0));
    T(write(p[1], "1", 1));
    T(write(p[1], end - 12, 8192));
    T(write(p[1], end - 12, 1l << 31));
    T(read(p[0], buffer, 64));
    T(close(p[1]));
    T(read(p[0], NOWHERE, 4));
    T((fd = open("f", O_RDWR | O_CREAT, 0600)) >= 0);
    T(read(fd, NOWHERE, 4));
    T(write(fd, end - 4, 100));
    T(writev(fd, some, 3));
    T(pwrite(fd, NOWHERE, 4, 0));
    T(lseek(fd, 0, SEEK_END));
    T(pread(fd, end - 2, 100, 0));
    T(pread(fd, NOWHERE, 4, 100));
    T(pread(fd, NOWHERE, 4, 0));
    T(pread(fd, NOWHERE, 4, -1));
    T(read(fd, buffer, -1));
    T(pread(fd, buffer, 1l << 47, 0));
    T(write(fd, buffer, -1));
    T(read(99, buffer, -1));
    T((directory = open(".", O_RDONLY)) >= 0);
    T(read(directory, NOWHERE, 4));
    T(read(directory, BEYOND, 4));
    T(write(directory, NOWHERE, 4));
}

int main(int c, char **v)
{
    int pairs[4][2];
    T(chdir(v[1]));
    signal(SIGPIPE, SIG_IGN);
    end = page_end();
    memcpy(end - 4, "wxyz", 4);
    local(SOCK_DGRAM, pairs[0]);
    local(SOCK_STREAM, pairs[1]);
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[2]));
    T(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pairs[3]));
    for (int i = 0; i < 4; i++) {
        printf("kind %d\n", i);
        pieces(pairs[i][0], pairs[i][1]);
        names(pairs[i][0], pairs[i][1]);
        many(pairs[i][0], pairs[i][1]);
        if (i == 1 || i == 2) ends(pairs[i][0], pairs[i][1]);
    }
    along(pairs[3][0], pairs[3][1]);
    records(seam());
    vectors();
    broken();
    files();
    return 0;
}
