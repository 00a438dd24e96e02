/* Pages here and there, each at another place in its window: written, checked, given back. Usage: STEP COUNT. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int arguments, char **argument)
{
    if (arguments != 3) return 2;
    long step = atol(argument[1]), count = atol(argument[2]);
    char *base = mmap(0, step * count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return 3;
    for (long n = 0; n < count; n++) {
        long *page = (long *)(base + n * step + n % 512 * 4096);
        if (mprotect(page, 4096, PROT_READ | PROT_WRITE)) { printf("refused after %ld pages\n", n); return 0; }
        if (*page) { printf("page %ld is not zero\n", n); return 1; }
        *page = n;
        /* Nine of ten go at once, so that few are in use of many that were. */
        if (n % 10) munmap(page, 4096);
    }
    for (long n = 0; n < count; n += 10)
        if (*(long *)(base + n * step + n % 512 * 4096) != n) { printf("page %ld is lost\n", n); return 1; }
    puts("ok");
    return 0;
}
