/* What a guest does with addresses that it may use and with others. Usage: ADDRESS PORT FORBIDDEN.
   Prints the same on both platforms. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in at(const char *address, const char *port, int family)
{
    struct sockaddr_in a = {.sin_family = family, .sin_port = htons(atoi(port))};
    inet_pton(AF_INET, address, &a.sin_addr);
    return a;
}
#define SAYS(name, call) do { errno = 0; long r = (call); printf("%s: %ld %s\n", name, r < 0 ? -1L : 0L, r < 0 ? strerror(errno) : ""); } while (0)

static struct sockaddr_in good, bad, changing;
static volatile int stop;
static char large[70000];
/* Between one look at the address and another. */
static void *changes(void *n)
{
    while (!stop) { changing.sin_port = good.sin_port; changing.sin_port = bad.sin_port; }
    return 0;
}

static void *accepts(void *listener)
{
    int peer = accept((int)(long)listener, 0, 0);
    return (void *)(long)(peer >= 0 && write(peer, "hello", 5) == 5);
}

/* Makes room in a queue that is full. */
static void *accepts_later(void *listener)
{
    usleep(200000);
    while (!stop) { accept((int)(long)listener, 0, 0); usleep(1000); }
    return 0;
}

int main(int c, char **v)
{
    good = at(v[1], v[2], AF_INET), bad = at(v[1], v[3], AF_INET);
    struct sockaddr_in none = at(v[1], v[3], AF_UNSPEC), any = at("0.0.0.0", v[3], AF_UNSPEC);
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = bad.sin_port};
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
    char buffer[100];
    void *result;
    pthread_t other;
    int on = 1, listener, client, u;

    SAYS("listen without an address", listen(socket(AF_INET, SOCK_STREAM, 0), 1));
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    SAYS("bind elsewhere", bind(listener, (void *)&bad, sizeof bad));
    SAYS("bind to no family", bind(listener, (void *)&any, sizeof any));
    SAYS("bind a short name", bind(listener, (void *)&good, 4));
    SAYS("bind nothing", bind(listener, (void *)8, 16));
    SAYS("bind no socket", bind(99, (void *)&good, sizeof good));
    SAYS("bind", bind(listener, (void *)&good, sizeof good));
    SAYS("listen", listen(listener, 8));
    pthread_create(&other, 0, accepts, (void *)(long)listener);
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAYS("connect elsewhere", connect(client, (void *)&bad, sizeof bad));
    SAYS("open by sending elsewhere", sendto(client, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&bad, sizeof bad));
    SAYS("connect", connect(client, (void *)&good, sizeof good));
    printf("read %ld\n", (long)recv(client, buffer, 5, MSG_WAITALL));
    pthread_join(other, &result);
    printf("accepted %ld\n", (long)result);
    SAYS("connect again", connect(client, (void *)&good, sizeof good));
    SAYS("send with the address", sendto(client, "x", 1, MSG_NOSIGNAL, (void *)&good, sizeof good) >= 0 ? 0 : 0);
    close(listener);
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAYS("connect where nobody listens", connect(client, (void *)&good, sizeof good));
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&good, sizeof good) || listen(listener, 0)) puts("cannot listen");
    for (int i = 0; i < 4; i++) connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (void *)&good, sizeof good);
    pthread_create(&other, 0, accepts_later, (void *)(long)listener);
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAYS("connect after a while", connect(client, (void *)&good, sizeof good));
    stop = 1;
    pthread_join(other, 0);
    stop = 0;
    close(listener);
    client = socket(AF_INET6, SOCK_STREAM, 0);
    SAYS("connect elsewhere by IPv6", connect(client, (void *)&mapped, sizeof mapped));
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAYS("connect elsewhere, at once", connect(client, (void *)&bad, sizeof bad));

    u = socket(AF_INET, SOCK_DGRAM, 0);
    SAYS("bind datagrams", bind(u, (void *)&good, sizeof good));
    SAYS("send elsewhere", sendto(u, "datagram", 8, 0, (void *)&bad, sizeof bad));
    SAYS("send to no family", sendto(u, "datagram", 8, 0, (void *)&none, sizeof none));
    SAYS("send", sendto(u, "datagram", 8, 0, (void *)&good, sizeof good));
    printf("received %ld\n", (long)recv(u, buffer, sizeof buffer, 0));
    SAYS("send too much", sendto(u, large, sizeof large, 0, (void *)&good, sizeof good));
    SAYS("disconnect", connect(u, (void *)&none, sizeof none));

    /* Nothing comes through between the look and the call. */
    pthread_create(&other, 0, changes, 0);
    int sent = 0;
    changing = good;
    for (int i = 0; i < 3000; i++) sent += sendto(u, "r", 1, MSG_DONTWAIT, (void *)&changing, sizeof changing) == 1;
    for (int i = 0; i < 300; i++) {
        client = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        if (!connect(client, (void *)&changing, sizeof changing) && !getpeername(client, (void *)&peer, &length) && peer.sin_port == bad.sin_port) puts("connected elsewhere");
        close(client);
    }
    stop = 1;
    pthread_join(other, 0);
    puts("done");
    return 0;
}
