// Makes the kernel need page tables until it is refused, and stays.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define FAR(i) ((void *)(((i) + 2) << 30))
static volatile char sum;
static char *map(void *at, long length, int protection, int fixed) {
    return mmap(at, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
}
int main(int c, char **v) {
    char *p = MAP_FAILED, *area = map(0, 1l << 30, PROT_READ, 0);
    for (long i = 0; i < 66000; i++) {
        if (!strcmp(v[1], "read")) p = map(FAR(i), 4096, PROT_READ, MAP_FIXED_NOREPLACE);
        if (!strcmp(v[1], "hint")) p = map(FAR(i), 4096, PROT_READ, 0);
        if (!strcmp(v[1], "write")) p = map(FAR(i), 4096, PROT_READ | PROT_WRITE, MAP_FIXED);
        if (!strcmp(v[1], "move")) p = mremap(area + i * 4096, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, FAR(i));
        if (!strcmp(v[1], "spread") || !strcmp(v[1], "grow")) {
            // One page to write, or to read and moved as it grows, at the lower end of what was reserved.
            long far = 7l << 30;
            char *low = map(0, far, PROT_NONE, 0);
            p = low;
            if (p != MAP_FAILED && v[1][0] == 's' && mprotect(p, 4096, PROT_READ | PROT_WRITE)) p = MAP_FAILED;
            if (p != MAP_FAILED && v[1][0] == 's') *p = 1;
            if (p != MAP_FAILED && v[1][0] == 'g') {
                munmap(low, 8192);
                p = mremap(area + i * 8192, 4096, 8192, MREMAP_MAYMOVE);
                if (p != MAP_FAILED) sum += *p;
            }
            if (v[1][0] == 's') munmap(low + 4096, far - 4096);
        }
        if (!strcmp(v[1], "leave")) {
            p = map(0, 2 << 20, PROT_READ, 0);
            if (p != MAP_FAILED) { sum += *p; munmap(p + 4096, (2 << 20) - 4096); }
        }
        if (p == MAP_FAILED) break;
        sum += *p;
    }
    pause();
    return 0;
}
