/* What granted directories, and sockets without a network, do not give. The argument is a pipe's name. */
#include "told.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define EMPTY 0x1000

int main(int c, char **v)
{
    int fd = open("/data/file", O_CREAT | O_RDWR, 0600), pair[2] = {-1, -1};
    struct sockaddr_un name = {AF_UNIX, "/data/socket"};
    T(renameat2(AT_FDCWD, "/data/file", AT_FDCWD, "/data/moved", 4));
    T(access("/data/file", F_OK));
    T(linkat(fd, "", AT_FDCWD, "/data/link", EMPTY));
    int made = socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    T(made == -1 || sendto(pair[0], "x", 1, 0, (void *)&name, sizeof name) == -1);
    T(made == -1 || bind(pair[0], (void *)&name, 2) == -1);
    /* The operator's file, by any way to name it. */
    T(fchmod(0, 0604));
    T(syscall(452, 0, "", 0604, EMPTY));
    T(syscall(452, 0, "file", 0604, EMPTY));
    T(fchownat(0, "", -1, -1, EMPTY));
    T(syscall(SYS_utimensat, 0, 0, 0, 0));
    T(syscall(261, 0, 0, 0));
    /* One's own. */
    struct stat st;
    struct timespec times[2] = {{5, 6}, {7, 8}};
    T(syscall(452, fd, "", 0604, EMPTY));
    T(fchownat(fd, "", -1, -1, EMPTY));
    T(futimens(fd, times));
    fstat(fd, &st);
    printf("%o %ld %ld\n", st.st_mode & 07777, (long)st.st_atim.tv_sec, (long)st.st_mtim.tv_nsec);
    T(syscall(452, AT_FDCWD, "/data/file", 0640, EMPTY));
    T(syscall(452, AT_FDCWD, "/data/file", 04640, 0));
    T(syscall(452, 99, "", 0640, EMPTY));
    T(syscall(452, fd, "", 0640, 0));
    T(syscall(SYS_utimensat, fd, 0, 8, 0));
    if (v[1]) {
        T(open(v[1], O_RDONLY));
        T(open(v[1], O_WRONLY));
        T(open(v[1], O_CREAT | O_EXCL | O_WRONLY, 0600));
        T(open(v[1], O_RDONLY | O_DIRECTORY));
    }
    return 0;
}
