/* Touches pages far from each other, so that none follows another, and looks at all of them again.
 * Usage: COUNT STEP (pages). */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int words, char **word)
{
    if (words != 3) return 2;
    long count = atol(word[1]), step = atol(word[2]) * 4096;
    char *base = mmap(0, count * step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return 3;
    for (int round = 0; round < 2; round++)
        for (long n = 0; n < count; n++) {
            long *page = (long *)(base + n * step);
            if (round ? *page != n + 1 : *page != 0) { printf("page %ld holds %ld\n", n, *page); return 1; }
            *page = n + 1;
        }
    puts("ok");
    return 0;
}
