// Fills a space with as many areas as there may be. Says of each call how many have to go before it is done or fails for
// something else than their number, what it failed with last, and whether what has failed has changed anything.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define PAGE 4096L
#define MOST 80000
#define PAGES 40
#define FIXED (MREMAP_MAYMOVE | MREMAP_FIXED)
static char *base, has[MOST], before[2][PAGES], after[2][PAGES];
static long top, full;
static char *place(int nth) { return (char *)0x200000000000L + nth * (1L << 24); }
static int put(char *at, int pages, int protection) {
    return mmap(at, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0;
}
static void fill(void) {
    for (long i = 0; i < MOST; i++) {
        if (has[i]) continue;
        if (put(base + 2 * i * PAGE, 1, PROT_NONE)) { full = 1; return; }
        has[i] = 1;
        if (i > top) top = i;
    }
}
static void drop(void) {
    while (!has[top]) top--;
    munmap(base + 2 * top * PAGE, PAGE);
    has[top] = 0;
}
static void shape(char *of, char *at) {
    unsigned char there;
    for (int k = 0; k < PAGES; k++) of[k] = !mincore(at + k * PAGE, PAGE, &there);
}
static long grow(void) {
    long end = (syscall(SYS_brk, 0) + PAGE - 1) & -PAGE;
    errno = ENOMEM;
    return syscall(SYS_brk, end + PAGE) == end + PAGE ? 0 : -1;
}
#define MOVE(...) (syscall(SYS_mremap, __VA_ARGS__) == -1 ? -1 : 0)
static const char *const names[] = {
    "map", "map within", "map over", "map beside", "unmap within", "unmap the end", "protect within", "protect the end",
    "protect all", "protect over", "protect from within to within", "grow the heap", "grow in place", "grow and move",
    "grow some and move", "shrink", "shrink within", "move", "move within", "move upon", "move several", "shrink and move",
    "move nothing", "map where something is", "move several onto one",
};
enum { CALLS = sizeof names / sizeof *names };
static long call(int nth, char *a, char *b) {
    switch (nth) {
    case 0: return put(b, 1, PROT_NONE);
    case 1: return put(a + 2 * PAGE, 1, PROT_NONE);
    case 2: return put(a, 5, PROT_NONE);
    case 3: return put(b + 5 * PAGE, 1, PROT_READ | PROT_WRITE);
    case 4: return munmap(a + 2 * PAGE, PAGE);
    case 5: return munmap(a + 2 * PAGE, 3 * PAGE);
    case 6: return mprotect(a + 2 * PAGE, PAGE, PROT_READ);
    case 7: return mprotect(a, PAGE, PROT_READ);
    case 8: return mprotect(a, 5 * PAGE, PROT_READ);
    case 9: return mprotect(a, 12 * PAGE, PROT_READ);
    case 10: return mprotect(a + PAGE, 9 * PAGE, PROT_READ);
    case 11: return grow();
    case 12: return MOVE(a, 5 * PAGE, 9 * PAGE, 0, 0);
    case 13: return MOVE(a, 5 * PAGE, 6 * PAGE, MREMAP_MAYMOVE, 0);
    case 14: return MOVE(a + PAGE, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE, 0);
    case 15: return MOVE(a, 5 * PAGE, 2 * PAGE, 0, 0);
    case 16: return MOVE(a + PAGE, 3 * PAGE, PAGE, 0, 0);
    case 17: return MOVE(a, 5 * PAGE, 5 * PAGE, FIXED, b + 10 * PAGE);
    case 18: return MOVE(a + PAGE, PAGE, PAGE, FIXED, a + 9 * PAGE);
    case 19: return MOVE(a, 5 * PAGE, 5 * PAGE, FIXED, b + PAGE);
    case 20: return MOVE(a, 12 * PAGE, 12 * PAGE, FIXED, b + 10 * PAGE);
    case 21: return MOVE(a + PAGE, 3 * PAGE, PAGE, FIXED, b + 10 * PAGE);
    case 22: return MOVE(a, 5 * PAGE, 5 * PAGE, FIXED, b + 10 * PAGE);
    case 23: return mmap(a, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED ? -1 : 0;
    default: return MOVE(a, 14 * PAGE, 14 * PAGE, FIXED, b + PAGE);
    }
}
int main(void) {
    static char buffer[1 << 14];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    base = mmap(0, 2 * MOST * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    munmap(base, 2 * MOST * PAGE);
    for (int nth = 0; nth < CALLS; nth++) {
        char *a = place(2 * nth), *b = place(2 * nth + 1);
        const char *name = names[nth];
        if (strcmp(name, "move nothing")) put(a, 5, PROT_READ | PROT_WRITE);
        if (!strcmp(name, "map beside") || !strncmp(name, "move ", 5)) put(b, 5, PROT_READ | PROT_WRITE);
        if (!strcmp(name, "grow and move")) put(a + 5 * PAGE, 1, PROT_NONE);
        if (!strcmp(name, "move several onto one")) {
            for (int k = 0; k < 4; k++) munmap(a + k * 4 * PAGE, 4 * PAGE), put(a + k * 4 * PAGE, 2, PROT_READ | PROT_WRITE);
            put(b, PAGES, PROT_READ);
        } else if (strstr(name, "over") || strstr(name, "to within") || strstr(name, "several")) {
            put(a + 5 * PAGE, 3, PROT_READ);
            put(a + 8 * PAGE, 4, PROT_READ | PROT_WRITE);
        }
    }
    for (int nth = 0; nth < CALLS; nth++) {
        char *a = place(2 * nth), *b = place(2 * nth + 1);
        int freed = 0, changed = 0, error = 0;
        fill();
        for (; freed < 9; freed++, drop()) {
            shape(before[0], a), shape(before[1], b);
            if (call(nth, a, b) == 0) break;
            int failed = errno;
            error = failed;
            shape(after[0], a), shape(after[1], b);
            changed |= memcmp(before, after, sizeof before);
            if (failed != ENOMEM) break;
        }
        printf("%s: %d%s%s%s\n", names[nth], freed, error ? ", " : "", error ? strerrorname_np(error) : "", changed ? ", changed" : "");
    }
    return !full;
}
