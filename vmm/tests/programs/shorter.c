// Takes memory and gives it up until no more is to be had, then has what there is become less.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define PAGE 4096l
#define STEP (4l << 20)
#define MOVE(...) syscall(SYS_mremap, __VA_ARGS__)
static void *map(long length) { return mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
static void tell(const char *what, long result) {
    printf("%s: %s\n", what, result == -1 ? strerrorname_np(errno) : "done");
}
int main(void) {
    static char buffer[1 << 12];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    char *own = map(8 * PAGE);
    long heap = (syscall(SYS_brk, 0) + PAGE - 1) & -PAGE;
    syscall(SYS_brk, heap + 8 * PAGE);
    for (int i = 0; i < 12; i++) {
        char *taken = map(STEP);
        if (taken == MAP_FAILED) break;
        memset(taken, 1, STEP);
        mprotect(taken, STEP, PROT_NONE);
    }
    tell("more", (long)map(PAGE));
    tell("shorter", MOVE(own, 8 * PAGE, 7 * PAGE, 0, 0));
    tell("shorter and movable", MOVE(own, 7 * PAGE, 6 * PAGE, MREMAP_MAYMOVE, 0));
    tell("as it is", MOVE(own, 6 * PAGE, 6 * PAGE, 0, 0));
    tell("longer", MOVE(own, 6 * PAGE, 7 * PAGE, 0, 0));
    tell("elsewhere", MOVE(own, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 0x200000000000l));
    tell("heap", syscall(SYS_brk, heap + 4 * PAGE) == heap + 4 * PAGE ? 0 : -1);
    tell("gone", munmap(own, PAGE));
    return 0;
}
