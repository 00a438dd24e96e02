/* Reads clocks by the C library (the vdso, if there is one) and by system calls, and holds them against each
 * other. Or, asked to, does with the vdso what nobody may. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long of(struct timespec t) { return t.tv_sec * 1000000000l + t.tv_nsec; }
static long read_clock(int id) {
    struct timespec t;
    if (clock_gettime(id, &t)) { printf("clock %d: no\n", id); exit(1); }
    return of(t);
}
static long call_clock(int id) {
    struct timespec t;
    if (syscall(SYS_clock_gettime, id, &t)) { printf("clock %d: no call\n", id); exit(1); }
    return of(t);
}
static int forward(int id, long times, long calls) {
    long last = call_clock(id);
    for (long i = 0; i < times; i++) {
        long now = i % (times / calls) ? read_clock(id) : call_clock(id);
        if (now < last) { printf("clock %d: back by %ld ns at %ld\n", id, last - now, i); return 0; }
        last = now;
    }
    return 1;
}
int main(int c, char **v) {
    char *code = (char *)getauxval(AT_SYSINFO_EHDR);
    if (!strcmp(v[1], "write-code")) { *(volatile char *)code = 1; return 0; }
    if (!strcmp(v[1], "write-data")) { *(volatile char *)(code - 1) = 1; return 0; }
    if (!strcmp(v[1], "run-data")) { ((void (*)(void))(code - 64))(); return 0; }
    if (!strcmp(v[1], "before")) return *(volatile char *)(code - 17 * 4096);
    if (!strcmp(v[1], "behind")) return *(volatile char *)(code + 16 * 4096 - 1);
    long times = atol(v[1]), calls = atol(v[2]), sleep = atol(v[3]);
    if (times / calls > 1)
        printf("vdso: %s\n", code && !memcmp(code, "\177ELF", 4) ? "yes" : "no");
    const int clocks[] = { CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE };
    for (int i = 0; i < 4; i++)
        printf("clock %d: %s\n", clocks[i], forward(clocks[i], times, calls) ? "forward" : "wrong");
    for (int round = 0; round < 2; round++) {
        for (int id = 0; id < 2; id++) {
            long before = call_clock(id), now = read_clock(id), after = call_clock(id);
            printf("clock %d: %s\n", id, before <= now && now <= after ? "the host's" : "another");
        }
        struct timeval t;
        long before = call_clock(0) / 1000, seconds = time(0);
        gettimeofday(&t, 0);
        long now = t.tv_sec * 1000000l + t.tv_usec, after = call_clock(0) / 1000;
        printf("gettimeofday: %s\n", before <= now && now <= after ? "the host's" : "another");
        printf("time: %s\n", seconds >= before / 1000000 - 1 && seconds <= after / 1000000 ? "the host's" : "another");
        struct timespec pause = { sleep / 1000, sleep % 1000 * 1000000 };
        long start = read_clock(CLOCK_MONOTONIC);
        nanosleep(&pause, 0);
        printf("slept: %s\n", read_clock(CLOCK_MONOTONIC) - start >= sleep * 1000000 ? "long enough" : "too short");
    }
    return 0;
}
