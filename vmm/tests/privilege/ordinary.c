/* What ordinary programs do: calls, memory that comes with its first touch, memory that goes, and
 * the mistakes that end them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static char *map(size_t length) {
    return mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int calls(void) {
    unsigned long sum = 0;
    for (int at = 0; at < 3000; at++) sum += syscall(SYS_write, 1, "", 0) + 1;
    printf("%lu calls, %.3f\n", sum, sum / 7.0);
    return 4;
}

static int memory(void) {
    size_t length = 24 << 20, half = length / 2;
    unsigned char *p = map(length);
    unsigned long sum = 0, zero = 0;
    for (size_t at = 0; at < length; at += 4096) p[at] = at >> 12;
    for (size_t at = 0; at < length; at += 4096) sum += p[at];
    for (int round = 0; round < 20; round++) {
        mprotect(p + half, 4096, PROT_READ);
        sum += p[half];
        mprotect(p + half, 4096, PROT_READ | PROT_WRITE);
        p[half] = round;
        munmap(p, 4096);
        unsigned char *q = mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        zero += q[0];
        q[0] = 1;
    }
    madvise(p, length, MADV_DONTNEED);
    for (size_t at = 0; at < length; at += 4096) zero += p[at];
    for (int at = 0; at < 300; at++) {
        char *m = malloc(at * 977 + 1);
        memset(m, at, at * 977 + 1);
        sum += m[at];
        if (at % 3) free(m);
    }
    printf("%lu %lu\n", sum, zero);
    return 5;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "hello";
    char *page = map(8192);
    page[4096] = 1;
    if (!strcmp(what, "hello")) {
        printf("hello, %d words\n", count);
        return 3;
    }
    if (!strcmp(what, "calls")) return calls();
    if (!strcmp(what, "memory")) return memory();
    if (!strcmp(what, "write-text")) *(volatile char *)(void *)main = 1;
    if (!strcmp(what, "execute-data")) ((void (*)(void))page)();
    if (!strcmp(what, "unmapped")) { munmap(page + 4096, 4096); return page[4096]; }
    if (!strcmp(what, "protected")) { mprotect(page + 4096, 4096, PROT_NONE); return page[4096]; }
    if (!strcmp(what, "read-only")) { mprotect(page + 4096, 4096, PROT_READ); page[4096] = 2; }
    if (!strcmp(what, "null")) return *(volatile int *)(long)(count - 2);
    if (!strcmp(what, "trap")) __builtin_trap();
    if (!strcmp(what, "divide")) { volatile int zero = 0; return 1 / zero; }
    return 0;
}
