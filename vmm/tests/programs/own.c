/* Tries to use, close and replace every descriptor that it did not open. */
#include "told.h"
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

static char buffer[4096];

#define WRONG(test) do { errno = 0; if (test) { printf("%d: %s, %s\n", fd, #test, strerror(errno)); return 1; } } while (0)

int main(void)
{
    struct stat st;
    struct epoll_event event = {EPOLLIN};
    int e = epoll_create1(0), pair[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    for (int fd = 64; fd < 200; fd++) {
        struct pollfd p = {fd, POLLIN | POLLOUT};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        struct timeval now = {0, 0};
        WRONG(fstat(fd, &st) != -1);
        WRONG(read(fd, buffer, 1) != -1 || errno != EBADF);
        WRONG(pread(fd, buffer, 1, 0) != -1 || errno != EBADF);
        WRONG(write(fd, buffer, 1) != -1 || errno != EBADF);
        WRONG(dup(fd) != -1 || errno != EBADF);
        WRONG(fcntl(fd, F_GETFD) != -1 || errno != EBADF);
        WRONG(fcntl(fd, F_DUPFD, 3) != -1);
        WRONG(syscall(SYS_ioctl, fd, 0xae80, 0) != -1 || errno != EBADF);
        WRONG(lseek(fd, 0, 0) != -1);
        WRONG(poll(&p, 1, 0) != 1 || p.revents != POLLNVAL);
        WRONG(select(fd + 1, &set, 0, 0, &now) != -1 || errno != EBADF);
        WRONG(epoll_ctl(e, EPOLL_CTL_ADD, fd, &event) != -1);
        WRONG(openat(fd, "x", O_RDONLY) != -1);
        WRONG(syscall(SYS_mmap, 0, 4096, 1, 2, fd, 0) != -1);
        WRONG(sendfile(pair[0], fd, 0, 1) != -1);
        WRONG(sendfile(fd, 0, 0, 1) != -1);
        WRONG(syscall(SYS_copy_file_range, fd, 0, 0, 0, 1, 0) != -1);
        WRONG(ftruncate(fd, 0) != -1);
        WRONG(syscall(SYS_accept, fd, 0, 0) != -1);
        WRONG(sendto(fd, buffer, 1, 0, 0, 0) != -1);
        WRONG(close(fd) != -1 || errno != EBADF);
        struct iovec one = {"!", 1};
        char control[CMSG_SPACE(4)] = {0};
        struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(4), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(head), &fd, 4);
        WRONG(sendmsg(pair[0], &message, 0) != -1 || errno != EBADF);
    }
    char interface[40] = "lo";
    int fd = pair[0];
    WRONG(!getenv("NETWORK") && (ioctl(fd, 0x8913, interface) != -1 || errno != ENOTTY));
    WRONG(getenv("NETWORK") && ioctl(fd, 0x8913, interface) != 0);
    struct linger linger = {1, 60};
    WRONG(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) != -1 || errno != ENOPROTOOPT);
    /* Options whose values hold addresses, or that overrun their room, are the monitor's danger. */
    static char code[4096];
    struct { unsigned short count; void *at; } program = {1, code};
    socklen_t room = sizeof program;
    WRONG(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != -1 || errno != ENOPROTOOPT);
    WRONG(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, code, &room) != -1 || errno != ENOPROTOOPT);
    WRONG(getsockopt(1, SOL_SOCKET, SO_GET_FILTER, code, &room) != -1 || errno != ENOTSOCK);
    int whole[3];
    room = sizeof whole;
    WRONG(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, whole, &room) || whole[0] != getpid() || whole[1] != getuid());
    close_range(3, ~0u, 0);
    /* New ones are the guest's own, as many as it likes, and each works. */
    for (int n = 0; n < 300; n++) {
        int fd = dup(1);
        if (fd < 0 || fstat(fd, &st)) { printf("new %d\n", fd); return 1; }
    }
    close_range(3, ~0u, 0);
    puts("done");
    fflush(stdout);
    close(0); close(1); close(2);
    return 3;
}
