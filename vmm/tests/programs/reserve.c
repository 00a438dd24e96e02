#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
int main(void) {
    const long step = 4l << 20, n = 300;
    char *p = mmap(0, step * n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { puts("the reservation was refused"); return 1; }
    for (long tib = 1; tib <= 32; tib *= 2)
        if (mmap(0, tib << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            { printf("%ld TiB were refused\n", tib); return 1; }
    for (long i = 0; i < n; i++) {
        if (mprotect(p + i * step, 4096, PROT_READ | PROT_WRITE)) { printf("refused after %ld pages\n", i); return 1; }
        p[i * step] = 1;
    }
    long most = 0;
    const long gib = 1l << 30;
    char *last = 0, *read;
    while (most < 64 && (read = mmap(0, gib, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) != MAP_FAILED) {
        last = read;
        most++;
    }
    printf("%ld GiB to read\n", most);
    char *none = mmap(0, 64 * gib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int more = !mprotect(none, 64 * gib, PROT_READ);
    char *one = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    more |= mremap(one, 4096, 64 * gib, MREMAP_MAYMOVE) != MAP_FAILED;
    // What grows while nothing can be done with it counts from when something can.
    none = mremap(none, 64 * gib, 128 * gib, MREMAP_MAYMOVE);
    if (none == MAP_FAILED) { puts("a reservation does not grow"); return 1; }
    more |= !mprotect(none + 64 * gib, 64 * gib, PROT_READ);
    printf("more by other calls: %d\n", more);
    munmap(last, gib);
    // What was let go can be had again, as often as one likes.
    for (long i = 0; i < 100; i++) {
        char *p = mmap(0, gib / 2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) { printf("refused in round %ld\n", i); return 1; }
        munmap(p, gib / 2);
    }
    return 0;
}
