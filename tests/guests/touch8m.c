/* Reads one byte of each page of an 8 MiB library, twice, and prints their sum; how many cycles a
 * page took goes to standard error. */
#include "guest.h"
#include <x86intrin.h>

unsigned long touch8m_sum(void);

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    unsigned long long start = __rdtsc();
    unsigned long sum = touch8m_sum();
    unsigned long long first = __rdtsc();
    if (touch8m_sum() != sum)
        return 1;
    unsigned long long second = __rdtsc();
    printf("touched 2048 pages, sum %lu\n", sum);
    fprintf(stderr, "first pass: %llu cycles a page\nsecond pass: %llu cycles a page\n",
            (first - start) / 2048, (second - first) / 2048);
    return guest_end(argc, argv);
}
