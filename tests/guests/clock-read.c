/* Reads the clock a million times, and prints how long one reading took. */
#include "guest.h"
#include <time.h>

#define TIMES 1000000

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000l + t.tv_nsec;
}

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    long start = now(), end = start;
    for (int i = 0; i < TIMES; i++)
        end = now();
    printf("a reading: %ld ps\n", (end - start) / (TIMES / 1000));
    return guest_end(argc, argv);
}
