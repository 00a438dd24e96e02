/* What a guest reaches of its host. Usage: WHAT [ARGUMENT ...]. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static const char *said(int r) { return r < 0 ? strerror(errno) : "yes"; }
static struct sockaddr_un name(const char *s, socklen_t *length) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int path = *s == '/';
    strcpy(a.sun_path + !path, s);
    *length = offsetof(struct sockaddr_un, sun_path) + strlen(s) + 1;
    return a;
}
static int listener;
static void *serve(void *n) {
    char buffer[65536];
    int c = accept(listener, 0, 0);
    ssize_t r;
    while ((r = read(c, buffer, sizeof buffer)) > 0) write(c, buffer, r);
    close(c);
    return 0;
}
int main(int argc, char **argv) {
    const char *what = argv[1];
    socklen_t length;
    if (!strcmp(what, "names")) {
        /* A local socket of the host, abstract or with a path, and one of its own. */
        struct sockaddr_un a = name(argv[2], &length);
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        printf("socket %s", said(s));
        printf(", connected %s", said(connect(s, (void *)&a, length)));
        int d = socket(AF_UNIX, SOCK_DGRAM, 0);
        printf(", sent %s\n", said(sendto(d, "x", 1, 0, (void *)&a, length)));
        int pair[2];
        int r = socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
        printf("pair %s", said(r));
        if (!r) printf(", sent %s", said(sendto(pair[0], "x", 1, 0, (void *)&a, length)));
        r = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        printf("\nstream pair %s", said(r));
        r = sendto(pair[0], "x", 1, 0, (void *)&a, length);
        printf(", sent %s\n", r < 0 ? "no" : "yes");
        a = name("own-name-of-the-guest", &length);
        int l = socket(AF_UNIX, SOCK_STREAM, 0);
        printf("own %s", said(bind(l, (void *)&a, length) ?: listen(l, 1)));
        s = socket(AF_UNIX, SOCK_STREAM, 0);
        printf(", connected %s\n", said(connect(s, (void *)&a, length)));
        printf("netlink %s\n", said(socket(16, SOCK_RAW, 0)));
        printf("raw %s\n", said(socket(AF_INET, SOCK_RAW, 1)));
    } else if (!strcmp(what, "loopback")) {
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        length = sizeof a;
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bind(listener, (void *)&a, sizeof a);
        listen(listener, 5);
        getsockname(listener, (void *)&a, &length);
        pthread_t server;
        pthread_create(&server, 0, serve, 0);
        int c = socket(AF_INET, SOCK_STREAM, 0);
        printf("connected %s\n", said(connect(c, (void *)&a, sizeof a)));
        char buffer[1000];
        long sum = 0, n;
        for (int i = 0; i < 1000; i++) {
            memset(buffer, i, sizeof buffer);
            write(c, buffer, sizeof buffer);
            for (long got = 0; got < sizeof buffer; got += n) {
                n = read(c, buffer + got, sizeof buffer - got);
                if (n <= 0) { puts("lost"); return 9; }
                sum += n;
            }
        }
        shutdown(c, SHUT_WR);
        pthread_join(server, 0);
        printf("%ld bytes\n", sum);
    } else if (!strcmp(what, "devices")) {
        /* The mode that they have: nothing changes where it is allowed. */
        printf("mode %s\n", said(chmod("/dev/null", 0666)));
        int d = open("/dev/zero", O_RDWR);
        printf("open %s, written %s", said(d), said(write(d, "x", 1)));
        printf(", mode %s\n", said(fchmod(d, 0666)));
    } else if (!strcmp(what, "attributes")) {
        /* Of an open file, which the VMM changes, and by its name, which the kernel does. */
        int f = open("/data/file", O_RDWR | O_CREAT, 0600);
        char value[8] = "", large[256] = { 0 };
        printf("set %s", said(fsetxattr(f, "user.kind", "open", 4, 0)));
        printf(", got %s", said(getxattr("/data/file", "user.kind", value, sizeof value)));
        printf(" %s\n", value);
        printf("again %s\n", said(fsetxattr(f, "user.kind", "open", 4, XATTR_CREATE)));
        printf("no name %s", said(fsetxattr(f, (char *)8, "open", 4, 0)));
        printf(", no value %s", said(fsetxattr(f, "user.kind", (char *)8, 4, 0)));
        printf(", too large %s", said(fsetxattr(f, "user.kind", large, 1 << 20, 0)));
        printf(", no file %s", said(fsetxattr(99, "user.kind", large, 1, 0)));
        printf(", privileged %s", said(fsetxattr(f, "trusted.kind", large, 20, 0)));
        printf(", input %s\n", said(fsetxattr(0, "user.kind", "open", 4, 0)));
        printf("now %s", said(syscall(SYS_utimensat, f, 0, 0, 0)));
        printf(", links without a path %s", said(syscall(SYS_utimensat, f, 0, 0, AT_SYMLINK_NOFOLLOW)));
        printf(", none %s\n", said(syscall(SYS_utimensat, AT_FDCWD, 0, 0, 0)));
    } else if (!strcmp(what, "time")) {
        time_t now = 0;
        char text[64];
        strftime(text, sizeof text, "%H:%M %Z", localtime(&now));
        puts(text);
    } else if (!strcmp(what, "files")) {
        for (int i = 2; i < argc; i++) {
            int write = *argv[i] == '+';
            int f = open(argv[i] + write, write ? O_RDWR | O_CREAT : O_RDONLY, 0600);
            printf("%s: %s\n", argv[i], said(f));
        }
    }
    return 0;
}
