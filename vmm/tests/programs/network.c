/* Sockets of the network, on the loopback interface, one thread. */
#include "told.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

static char buffer[1 << 20];

int main(int c, char **v)
{
    int server, client, peer, u, w;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}, from;
    socklen_t length = sizeof at;
    int on = 1, value;
    signal(SIGPIPE, SIG_IGN);
    T(server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); T(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)); T(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, 1)); T(accept(server, 0, 0)); T(bind(server, (void *)&at, sizeof at)); T(bind(server, (void *)&at, sizeof at)); T(listen(server, 8));
    T(getsockname(server, (void *)&at, &length)); printf("%d %d\n", length, at.sin_port != 0); length = 4; T(getsockname(server, (void *)&from, &length)); printf("%d\n", length); length = -1; T(getsockname(server, (void *)&from, &length));
    T(client = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)); T(getpeername(client, (void *)&from, &length)); T(connect(client, (void *)&at, sizeof at)); T(connect(client, (void *)&at, sizeof at)); length = sizeof from; T(peer = accept4(server, (void *)&from, &length, SOCK_CLOEXEC)); printf("%d %d\n", length, from.sin_family);
    T(setsockopt(peer, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger))); T(setsockopt(peer, SOL_SOCKET, SO_LINGER, &(struct linger){0, 9}, sizeof(struct linger))); T(setsockopt(peer, SOL_SOCKET, SO_LINGER, &on, 4)); T(fcntl(peer, F_GETFD)); T(fcntl(server, F_SETFL, O_NONBLOCK)); T(accept(server, 0, 0));
    length = sizeof value; T(getsockopt(client, SOL_SOCKET, SO_TYPE, &value, &length)); printf("%d %d\n", value, length); T(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)); length = 2; T(getsockopt(client, SOL_SOCKET, SO_ERROR, &value, &length)); printf("%d\n", length); T(getsockopt(client, SOL_SOCKET, 9999, &value, &length));
    T(send(client, "request", 7, 0)); T(recv(peer, buffer, 3, MSG_WAITALL)); T(recv(peer, buffer, 100, MSG_PEEK)); length = sizeof from; T(recvfrom(peer, buffer, 100, 0, (void *)&from, &length)); T(recv(peer, buffer, 1, MSG_DONTWAIT));
    /* More than fits, in pieces. */
    T(fcntl(peer, F_SETFL, O_NONBLOCK)); long sent = 0, got = 0, n;
    while (sent < 4 << 20) { n = write(peer, buffer, sizeof buffer); if (n > 0) sent += n; else { struct pollfd p = {client, POLLIN}; poll(&p, 1, 1000); while (p.revents && (n = recv(client, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) got += n; } }
    shutdown(peer, SHUT_WR); while ((n = read(client, buffer, sizeof buffer)) > 0) got += n; printf("%d\n", sent == got); T(read(client, buffer, 1));
    T(close(peer)); T(send(client, "x", 1, 0) >= -1); T(shutdown(client, SHUT_RDWR) >= -1); T(close(client)); T(shutdown(server, 9)); T(close(server));
    /* Nobody listens; nobody answers in time. */
    T(client = socket(AF_INET, SOCK_STREAM, 0)); T(connect(client, (void *)&at, sizeof at)); T(close(client)); T(client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)); T(connect(client, (void *)&at, 3)); T(connect(client, (void *)1, 16)); T(connect(client, (void *)&at, 1 << 20)); T(close(client));
    /* Datagrams. */
    T(u = socket(AF_INET, SOCK_DGRAM, 0)); T(w = socket(AF_INET, SOCK_DGRAM, 0)); at.sin_port = 0; T(bind(u, (void *)&at, sizeof at)); length = sizeof at; getsockname(u, (void *)&at, &length); T(sendto(w, "datagram", 8, 0, (void *)&at, sizeof at)); T(sendto(w, "", 0, 0, (void *)&at, sizeof at)); length = sizeof from; T(recvfrom(u, buffer, 4, MSG_TRUNC, (void *)&from, &length)); T(recv(u, buffer, 9, 0)); T(send(w, "x", 1, 0));
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}}, room[2] = {{buffer, 1}, {buffer + 8, 90}};
    struct mmsghdr many[3] = {{{&at, sizeof at, parts, 2}}, {{&at, sizeof at, parts, 1}}, {{&at, sizeof at, parts, 0}}}, into[4] = {{{&from, sizeof from, room, 2}}, {{0, 0, room, 2}}, {{0, 0, room, 2}}, {{0, 0, room, 2}}};
    T(sendmmsg(w, many, 3, 0)); printf("%u %u %u\n", many[0].msg_len, many[1].msg_len, many[2].msg_len); T(recvmmsg(u, into, 4, MSG_WAITFORONE, 0)); printf("%u %u %u %d\n", into[0].msg_len, into[1].msg_len, into[2].msg_len, into[0].msg_hdr.msg_namelen);
    struct timeval time = {0, 20000}; T(setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time)); T(recv(u, buffer, 9, 0)); T(close(u)); T(close(w));
    /* Names that are longer than the room for them, and messages that come together. */
    T(u = socket(AF_INET, SOCK_DGRAM, 0)); T(w = socket(AF_INET, SOCK_DGRAM, 0)); at.sin_port = 0; T(bind(u, (void *)&at, sizeof at)); length = sizeof at; getsockname(u, (void *)&at, &length); T(connect(w, (void *)&at, sizeof at));
    send(w, "whole", 5, 0); send(w, "two", 3, 0); T(recv(u, buffer, 99, MSG_WAITALL)); T(recv(u, buffer, 99, MSG_WAITALL | MSG_PEEK)); T(recv(u, buffer, 99, MSG_DONTWAIT));
    for (int i = 0; i < 5; i++) send(w, "name", 4, 0);
    length = 2; memset(&from, 9, sizeof from); T(recvfrom(u, buffer, 9, 0, (void *)&from, &length)); printf("%d %d %d\n", length, from.sin_family, ((char *)&from)[2]);
    struct msghdr one = {&from, 0, room, 2}; memset(&from, 9, sizeof from); T(recvmsg(u, &one, 0)); printf("%d %d\n", one.msg_namelen, from.sin_family); one.msg_namelen = 4; T(recvmsg(u, &one, 0)); printf("%d\n", one.msg_namelen); one.msg_namelen = -1; T(recvmsg(u, &one, 0)); one = (struct msghdr){.msg_iov = room, .msg_iovlen = 2, .msg_control = buffer + 4096, .msg_controllen = 1 << 16}; T(recvmsg(u, &one, 0)); printf("%ld\n", (long)one.msg_controllen);
    T(recvmmsg(u, into, 1, 0, 0)); struct msghdr far = {&at, 1 << 20, parts, 1}; T(sendmsg(w, &far, 0)); T(recv(u, buffer, 9, MSG_DONTWAIT));
    /* Nobody is told of a descriptor where it cannot be. */
    T(server = socket(AF_INET, SOCK_STREAM, 0)); at.sin_port = 0; T(bind(server, (void *)&at, sizeof at)); T(listen(server, 8)); length = sizeof at; getsockname(server, (void *)&at, &length); T(client = socket(AF_INET, SOCK_STREAM, 0)); T(connect(client, (void *)&at, sizeof at)); length = 16; T(accept(server, (void *)8, &length)); T(peer = dup(server)); T(peer - client); T(close(peer)); T(close(client)); T(close(server)); T(close(u)); T(close(w));
    T(setsockopt(1, SOL_SOCKET, 9999, &on, 4) == -1);
    /* Connections that are opened by what is sent, and one that takes longer than one may wait. */
    at.sin_port = 0; T(server = socket(AF_INET, SOCK_STREAM, 0)); T(bind(server, (void *)&at, sizeof at)); T(listen(server, 8)); length = sizeof at; getsockname(server, (void *)&at, &length);
    T(client = socket(AF_INET, SOCK_STREAM, 0)); T(sendto(client, "fast", 4, MSG_FASTOPEN, (void *)&at, sizeof at)); T(peer = accept(server, 0, 0)); T(recv(peer, buffer, 4, MSG_WAITALL)); T(close(peer)); T(close(client));
    struct msghdr opening = {&at, sizeof at, parts, 2}; T(client = socket(AF_INET, SOCK_STREAM, 0)); T(sendmsg(client, &opening, MSG_FASTOPEN)); T(peer = accept(server, 0, 0)); T(recv(peer, buffer, 5, MSG_WAITALL)); T(close(peer)); T(close(client)); T(close(server));
    T(client = socket(AF_INET, SOCK_STREAM, 0)); T(sendto(client, "fast", 4, MSG_FASTOPEN, (void *)&at, sizeof at)); T(close(client));
    T(server = socket(AF_INET, SOCK_STREAM, 0)); at.sin_port = 0; T(bind(server, (void *)&at, sizeof at)); T(listen(server, 0)); length = sizeof at; getsockname(server, (void *)&at, &length);
    int full[4]; for (int i = 0; i < 4; i++) connect(full[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (void *)&at, sizeof at);
    time.tv_usec = 50000; T(client = socket(AF_INET, SOCK_STREAM, 0)); T(setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time)); T(connect(client, (void *)&at, sizeof at)); T(close(client)); T(close(server)); for (int i = 0; i < 4; i++) close(full[i]);
    /* Descriptors end a message, whoever waits for more. */
    int pair[2]; char rights[64] = {0}; struct cmsghdr *right = (void *)rights; *right = (struct cmsghdr){.cmsg_len = CMSG_LEN(4), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}; memcpy(CMSG_DATA(right), &on, 4);
    struct msghdr with = {.msg_iov = parts + 1, .msg_iovlen = 1, .msg_control = rights, .msg_controllen = CMSG_SPACE(4)}; struct iovec ten = {buffer, 10}; struct msghdr all = {.msg_iov = &ten, .msg_iovlen = 1, .msg_control = buffer + 64, .msg_controllen = 64};
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, pair)); T(sendmsg(pair[0], &with, 0)); T(send(pair[0], "the rest", 8, 0)); T(recvmsg(pair[1], &all, MSG_WAITALL)); printf("%ld\n", (long)all.msg_controllen); T(close(*(int *)(buffer + 64 + CMSG_LEN(0)))); T(recv(pair[1], buffer, 8, MSG_WAITALL)); T(close(pair[0])); T(close(pair[1]));
    /* Local names; the other families there are, and are not. */
    struct sockaddr_un local = {.sun_family = AF_UNIX}; snprintf(local.sun_path, sizeof local.sun_path, "%s/socket", v[1]);
    T(server = socket(AF_UNIX, SOCK_SEQPACKET, 0)); T(bind(server, (void *)&local, sizeof local)); T(bind(server, (void *)&local, sizeof local)); T(listen(server, 1)); T(client = socket(AF_UNIX, SOCK_SEQPACKET, 0)); T(connect(client, (void *)&local, sizeof local)); T(peer = accept(server, 0, 0)); T(send(client, "packet", 6, 0)); T(recv(peer, buffer, 99, 0)); T(unlink(local.sun_path)); T(client = socket(AF_UNIX, SOCK_STREAM, 0)); T(connect(client, (void *)&local, sizeof local));
    T(socket(AF_NETLINK, SOCK_RAW, 0) >= 0); T(socket(AF_INET6, SOCK_DGRAM, 0) >= 0); T(socket(AF_INET, 77, 0)); T(socket(999, SOCK_STREAM, 0)); T(socket(AF_INET, SOCK_STREAM, 200)); T(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP)); T(socket(AF_INET, SOCK_SEQPACKET, 0));
    return 0;
}
