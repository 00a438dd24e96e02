// Takes the right to write a page away and gives it back, so many times.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
int main(int c, char **v) {
    char *page = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int done = 0;
    while (done < atoi(v[1])) {
        page[0]++;
        if (mprotect(page, 4096, PROT_READ) || mprotect(page, 4096, 3)) break;
        done++;
    }
    printf("%d\n", done);
    return 0;
}
