/* What memory costs a program, nanoseconds a page or a turn, the least of several rounds: a line a figure. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096L
#define WORKING_SET (16L << 20)
#define ROUNDS 9

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static char *map(long bytes)
{
    return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* A page's share of touching `bytes` of new memory. */
static double touch(long bytes)
{
    char *at = map(bytes);
    double start = now();
    for (long n = 0; n < bytes; n += PAGE) ((volatile char *)at)[n] = 1;
    double took = (now() - start) / (bytes / PAGE);
    munmap(at, bytes);
    return took;
}

static double least_touch(long bytes)
{
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double took = touch(bytes);
        if (took < least) least = took;
    }
    return least;
}

static void pair(char *page)
{
    mprotect(page, PAGE, PROT_READ);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    *(volatile char *)page = 1;
}

static void cycle(long bytes)
{
    char *at = map(bytes);
    *(volatile char *)at = 1;
    munmap(at, bytes);
}

static void act(int kind, char *page)
{
    char *grown;
    switch (kind) {
    case 0:
        pair(page);
        break;
    case 1:
        cycle(PAGE);
        break;
    case 2:
        cycle(1L << 20);
        break;
    default:
        grown = mremap(map(1L << 20), 1L << 20, 2L << 20, MREMAP_MAYMOVE);
        munmap(grown, 2L << 20);
    }
}

int main(void)
{
    printf("first_touch_16m_once %.0f\n", touch(WORKING_SET));
    printf("first_touch_16m %.0f\n", least_touch(WORKING_SET));
    printf("first_touch_1m %.0f\n", least_touch(1L << 20));
    printf("first_touch_64k %.0f\n", least_touch(64L << 10));
    char *page = map(PAGE);
    *page = 1;
    double least[4] = { 1e18, 1e18, 1e18, 1e18 };
    for (int round = 0; round < ROUNDS; round++) {
        for (int kind = 0; kind < 4; kind++) {
            double start = now();
            for (int n = 0; n < 50; n++) act(kind, page);
            double took = (now() - start) / 50;
            if (took < least[kind]) least[kind] = took;
        }
    }
    static const char *const names[] = { "mprotect_pair", "map_touch_unmap_4k", "map_touch_unmap_1m", "remap_1m" };
    for (int kind = 0; kind < 4; kind++) printf("%s %.0f\n", names[kind], least[kind]);
    return 0;
}
