/* Opens a connection by a message, with the listener that it was started with as standard input. Usage: ADDRESS PORT. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SAYS(name, call) do { errno = 0; long r = (call); printf("%s: %ld %s\n", name, r, r < 0 ? strerror(errno) : ""); } while (0)

int main(int c, char **v)
{
    struct sockaddr_in to = {AF_INET, htons(atoi(v[2]))};
    struct iovec part = {"x", 1};
    struct mmsghdr message = {{&to, sizeof to, &part, 1}};
    inet_pton(AF_INET, v[1], &to.sin_addr);
    SAYS("shut down", shutdown(0, SHUT_RDWR));
    SAYS("message", sendmsg(0, &message.msg_hdr, MSG_FASTOPEN));
    SAYS("messages", sendmmsg(0, &message, 1, MSG_FASTOPEN));
    return 0;
}
