/* `brk` where parts of the heap are unmapped or something else, and under a limit on data that is less than there is. */
#include "told.h"
#include <sys/mman.h>
#include <sys/resource.h>

#define PAGE 4096L

static long base;

static long heap(long to)
{
    return syscall(SYS_brk, base + to) - base;
}

static long soft(rlim_t most)
{
    struct rlimit limit;
    getrlimit(RLIMIT_DATA, &limit);
    limit.rlim_cur = most > limit.rlim_max ? limit.rlim_max : most;
    return setrlimit(RLIMIT_DATA, &limit);
}

static long put(long at, int protection)
{
    long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    return mmap((void *)(base + at), PAGE, protection, flags, -1, 0) == (void *)(base + at);
}

int main(int count, char **arguments)
{
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    base = ((syscall(SYS_brk, 0) + PAGE - 1) & -PAGE) + 16 * PAGE;
    T(heap(0));
    T(heap(8 * PAGE));
    puts("its end is not there");
    T(munmap((void *)(base + 4 * PAGE), 4 * PAGE));
    T(heap(6 * PAGE));
    T(heap(4 * PAGE));
    T(heap(8 * PAGE - 1));
    T(heap(7 * PAGE));
    T(heap(2 * PAGE));
    T(heap(0));
    T(heap(8 * PAGE));
    puts("some is not there");
    T(munmap((void *)(base + 2 * PAGE), 2 * PAGE));
    T(heap(3 * PAGE));
    T(heap(9 * PAGE));
    T(heap(0));
    T(heap(8 * PAGE));
    puts("some is something else");
    T(put(2 * PAGE, PROT_READ));
    T(heap(PAGE));
    T(heap(8 * PAGE));
    puts("less data is allowed");
    T(soft(4 * PAGE));
    T(heap(7 * PAGE));
    T(heap(8 * PAGE - 1));
    T(heap(9 * PAGE));
    T(soft(0));
    T(heap(6 * PAGE));
    T(soft(RLIM_INFINITY));
    T(heap(0));
    T(heap(8 * PAGE));
    puts("something follows");
    T(put(10 * PAGE, PROT_READ | PROT_WRITE));
    T(heap(9 * PAGE));
    T(heap(9 * PAGE + 1));
    T(heap(9 * PAGE - 1));
    puts("nothing is there");
    T(munmap((void *)base, 9 * PAGE));
    T(heap(9 * PAGE + 1));
    T(heap(8 * PAGE + 1));
    T(heap(4 * PAGE));
    T(heap(0));
    T(heap(9 * PAGE));
    return 0;
}
