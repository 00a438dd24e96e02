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
#define COUNTS(name, call) do { errno = 0; long r = (call); printf("%s: %ld %s\n", name, r, r < 0 ? strerror(errno) : ""); } while (0)
#define SAYS(name, call) do { errno = 0; long r = (call); printf("%s: %ld %s\n", name, r < 0 ? -1L : 0L, r < 0 ? strerror(errno) : ""); } while (0)

static struct sockaddr_in good, bad, changing;
static struct iovec pieces[2] = {{"two ", 4}, {"pieces", 6}};
/* A message of so many pieces, to an address or to whom the socket is connected to. */
static struct msghdr message(struct sockaddr_in *to, int count)
{
    return (struct msghdr){.msg_name = to, .msg_namelen = to ? sizeof *to : 0, .msg_iov = pieces, .msg_iovlen = count};
}
static struct msghdr with(struct msghdr m, int kind, const void *data, int length)
{
    static char control[64];
    struct cmsghdr *first = (void *)control;
    *first = (struct cmsghdr){.cmsg_len = CMSG_LEN(length), .cmsg_level = IPPROTO_IP, .cmsg_type = kind};
    memcpy(CMSG_DATA(first), data, length);
    m.msg_control = control, m.msg_controllen = CMSG_SPACE(length);
    return m;
}
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
    COUNTS("send with the address", sendto(client, "x", 1, MSG_NOSIGNAL, (void *)&good, sizeof good));
    close(client);
    int peer;
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAYS("connect once more", connect(client, (void *)&good, sizeof good));
    peer = accept(listener, 0, 0);
    COUNTS("one piece", sendmsg(client, &(struct msghdr){.msg_iov = pieces, .msg_iovlen = 1}, 0));
    struct msghdr two = message(0, 2), named = message(&good, 2), elsewhere = message(&bad, 2);
    COUNTS("two", sendmsg(client, &two, 0));
    COUNTS("two with an address", sendmsg(client, &named, 0));
    printf("opened by a message %d\n", sendmsg(socket(AF_INET, SOCK_STREAM, 0), &elsewhere, MSG_FASTOPEN) >= 0);
    printf("came %.24s\n", recv(peer, buffer, 24, MSG_WAITALL) == 24 ? buffer : "not");
    close(peer);
    send(client, "x", 1, MSG_NOSIGNAL);
    COUNTS("two that nobody reads", sendmsg(client, &two, MSG_NOSIGNAL));
    close(client);
    /* What is left of the address of a connection is none. */
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAYS("connect for an address", connect(client, (void *)&good, sizeof good));
    SAYS("disconnect", connect(client, (void *)&none, sizeof none));
    SAYS("listen with what is left", listen(client, 1));
    socklen_t size = sizeof on;
    getsockopt(client, SOL_SOCKET, SO_ACCEPTCONN, &on, &size);
    printf("listens %d\n", on);
    on = 1;
    SAYS("listen again", listen(listener, 8));
    SAYS("another protocol", socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE));
    SAYS("another kind", socket(AF_INET, SOCK_SEQPACKET, 0));
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
    struct msghdr to_good = message(&good, 2), to_bad = message(&bad, 2), large_one = message(&good, 1);
    COUNTS("message elsewhere", sendmsg(u, &to_bad, 0));
    COUNTS("message", sendmsg(u, &to_good, 0));
    printf("received %ld\n", (long)recv(u, buffer, sizeof buffer, 0));
    large_one.msg_iov = &(struct iovec){large, sizeof large};
    COUNTS("message of too much", sendmsg(u, &large_one, 0));
    int hops = 9;
    struct msghdr far = with(to_good, IP_TTL, &hops, sizeof hops);
    COUNTS("message with a lifetime", sendmsg(u, &far, 0));
    char route[8] = {131, 7, 4};
    memcpy(route + 3, &bad.sin_addr, 4);
    struct msghdr routed = with(to_good, IP_RETOPTS, route, sizeof route);
    COUNTS("message by way of another", sendmsg(u, &routed, 0));
    struct mmsghdr many[3] = {{to_good}, {to_good}, {to_bad}};
    COUNTS("messages until one goes elsewhere", sendmmsg(u, many, 3, 0));
    printf("of %u and %u\n", many[0].msg_len, many[1].msg_len);
    COUNTS("messages elsewhere", sendmmsg(u, many + 2, 1, 0));
    SAYS("connect datagrams", connect(u, (void *)&good, sizeof good));
    many[0].msg_hdr = many[1].msg_hdr = message(0, 1);
    COUNTS("messages to whom it is connected to", sendmmsg(u, many, 2, MSG_NOSIGNAL));
    COUNTS("message from nowhere", sendmsg(u, (void *)8, 0));
    while (recv(u, buffer, sizeof buffer, MSG_DONTWAIT) >= 0) ;
    SAYS("disconnect", connect(u, (void *)&none, sizeof none));

    /* Nothing comes through between the look and the call. */
    pthread_create(&other, 0, changes, 0);
    int sent = 0;
    changing = good;
    for (int i = 0; i < 3000; i++) sent += sendto(u, "r", 1, MSG_DONTWAIT, (void *)&changing, sizeof changing) == 1;
    struct msghdr racing = message(&changing, 1);
    for (int i = 0; i < 3000; i++) sent += sendmsg(u, &racing, MSG_DONTWAIT) == 4;
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
