/* What a guest does with a socket that it was started with, as standard input. Usage: PATH, or ADDRESS PORT. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SAYS(name, call) do { errno = 0; long r = (call); printf("%s: %ld %s\n", name, r, r < 0 ? strerror(errno) : ""); } while (0)

int main(int c, char **v)
{
    struct sockaddr none = {AF_UNSPEC}, *to;
    struct sockaddr_un local = {AF_UNIX};
    struct sockaddr_in far = {AF_INET};
    socklen_t length;
    if (c > 2) {
        far.sin_port = htons(atoi(v[2]));
        inet_pton(AF_INET, v[1], &far.sin_addr);
        to = (void *)&far, length = sizeof far;
    } else {
        strcpy(local.sun_path, v[1]);
        to = (void *)&local, length = sizeof local;
    }
    SAYS("disconnect", connect(0, &none, sizeof none));
    SAYS("connect", connect(0, to, length));
    SAYS("bind", bind(0, to, length));
    SAYS("send", sendto(0, "x", 1, 0, to, length));
    SAYS("listen", listen(0, 1));
    SAYS("write", write(0, "still", 5));
    return 0;
}
