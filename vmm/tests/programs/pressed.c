/* Threads touch a few pages each of large mappings, far more than they could have at once, so that at a limit what
 * was given and not touched is taken back from one while others write. Usage: THREADS. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define PAGES (64UL << 20) / PAGE
#define TOUCHED 80

/* Says what was wrong: no memory, a page that was not new, one that lost what was written. */
static long once(unsigned *random)
{
    unsigned pages[TOUCHED];
    unsigned char *mapped = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return 1;
    for (int nth = 0; nth < TOUCHED; nth++) {
        int known = 0;
        *random = *random * 1103515245 + 12345;
        pages[nth] = (*random >> 7) % (PAGES);
        for (int other = 0; other < nth; other++) known |= pages[other] == pages[nth];
        if (!known && mapped[pages[nth] * PAGE]) return 2;
        mapped[pages[nth] * PAGE] = nth + 1;
    }
    for (int nth = 0; nth < TOUCHED; nth++) {
        int last = nth;
        for (int later = nth + 1; later < TOUCHED; later++)
            if (pages[later] == pages[nth]) last = later;
        if (mapped[pages[nth] * PAGE] != last + 1) return 3;
    }
    munmap(mapped, PAGES * PAGE);
    return 0;
}

static void *work(void *number)
{
    unsigned random = (long)number * 77 + 5;
    long wrong = 0;
    for (int round = 0; round < 30 && !wrong; round++) wrong = once(&random);
    return (void *)wrong;
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 1, all = 0;
    pthread_t thread[8];
    void *wrong;
    for (long number = 0; number < threads; number++) pthread_create(&thread[number], 0, work, (void *)number);
    for (long number = 0; number < threads; number++) {
        pthread_join(thread[number], &wrong);
        all += (long)wrong;
    }
    printf("%ld wrong\n", all);
    return all != 0;
}
