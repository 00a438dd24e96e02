// Has as much to read as may be had, and then more by lengths that are no whole pages: says how much that was. Usage: FILE.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define PAGE 4096l
#define PAGES 1000l
#define MOST (64l << 30)
#define NOWHERE (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
static int file;
static long twice(long old) {
    char *first = mmap(0, PAGE, PROT_READ, MAP_SHARED, file, 0);
    long at = syscall(SYS_mremap, first, old, MOST, MREMAP_MAYMOVE);
    munmap(first, PAGE);
    if (at != -1) munmap((void *)at, MOST);
    return at != -1;
}
int main(int c, char **v) {
    char *few = mmap(0, PAGES * PAGE, PROT_NONE, NOWHERE, -1, 0), *last = 0;
    file = open(v[1], O_RDWR | O_CREAT, 0600);
    if (c != 2 || few == MAP_FAILED || file < 0 || ftruncate(file, MOST)) return 1;
    printf("twice: %ld %ld %ld\n", twice(0), twice(-1), twice(-PAGE + 1));
    // In halves, down to a page.
    for (long bytes = MOST; bytes >= PAGE; bytes /= 2)
        for (char *p; (p = mmap(0, bytes, PROT_READ, NOWHERE, -1, 0)) != MAP_FAILED;) last = p;
    for (long length = 1; length <= PAGE + 1; length += PAGE / 2) {
        // The last that was to be had is a page.
        long pages = 0;
        munmap(last, PAGE);
        while (pages < PAGES && !mprotect(few + pages * PAGE, length, PROT_READ)) pages++;
        mprotect(few, PAGES * PAGE, PROT_NONE);
        last = mmap(0, PAGE, PROT_READ, NOWHERE, -1, 0);
        printf("%ld bytes each: %ld\n", length, pages);
    }
    return 0;
}
