/* `mremap`, wrong in itself or of what is not there, of pages of the image and of memory, also of more than may be had. */
#include "told.h"
#include <sys/mman.h>
#include <sys/resource.h>

#define PAGE 4096L
#define FLAGS_FIXED (MREMAP_MAYMOVE | MREMAP_FIXED)
#define ELSEWHERE 0x200000000000L
#define MUCH (1L << 40)
#define END (1L << 47)

static const char image[16 * 4096] __attribute__((aligned(4096))) = {1, 2, 3};

static long move(const void *old, long old_length, long new_length, long flags, long new)
{
    long at = syscall(SYS_mremap, old, old_length, new_length, flags, new);
    return at == -1 ? -1 : at == (long)old ? 0 : 1;
}

static void wrong(const char *what, const char *at)
{
    puts(what);
    T(move(at, PAGE, PAGE, 8, ELSEWHERE));
    T(move(at, PAGE, MUCH, 8, ELSEWHERE));
    T(move(at, PAGE, MUCH, 1L << 32, ELSEWHERE));
    T(move(at, PAGE, PAGE, MREMAP_FIXED, ELSEWHERE));
    T(move(at, PAGE, MUCH, MREMAP_FIXED, ELSEWHERE));
    T(move(at + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0));
    T(move(at + 1, PAGE, MUCH, MREMAP_MAYMOVE, 0));
    T(move(at, PAGE, PAGE, FLAGS_FIXED, ELSEWHERE + 1));
    T(move(at, PAGE, 0, MREMAP_MAYMOVE, 0));
    T(move(at, PAGE, 0, FLAGS_FIXED, ELSEWHERE));
    T(move(at, PAGE, -1, MREMAP_MAYMOVE, 0));
    T(move(at, PAGE, -1, FLAGS_FIXED, ELSEWHERE));
    T(move(at, PAGE, END, 0, 0));
    T(move(at, PAGE, 2 * END, MREMAP_MAYMOVE, 0));
    T(move(at, PAGE, -2 * PAGE, MREMAP_MAYMOVE, 0));
    T(move(at, PAGE, PAGE, FLAGS_FIXED, -2 * PAGE));
    T(move(at, PAGE, PAGE, FLAGS_FIXED, END - PAGE));
    T(move(at, PAGE, 2 * PAGE, FLAGS_FIXED, END - 2 * PAGE));
    T(move(at, 2 * PAGE, 2 * PAGE, FLAGS_FIXED, (long)at + PAGE));
    T(move(at, 2 * PAGE, PAGE, FLAGS_FIXED, (long)at + PAGE));
    T(move(at + PAGE, PAGE, 2 * PAGE, FLAGS_FIXED, (long)at));
}

static long map(char *at, long length, int protection)
{
    return mmap(at, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at ? 0 : -1;
}

/* What may not be touched costs nothing, however much it is; what it becomes then does. */
static void reservations(char *at)
{
    /* No host has so much that it lets a program write to all of it. */
    struct rlimit data;
    getrlimit(RLIMIT_DATA, &data);
    if (data.rlim_cur > 1L << 30) data.rlim_cur = 1L << 30;
    T(setrlimit(RLIMIT_DATA, &data));
    T(map(at, 16 * PAGE, PROT_NONE));
    T(move(at, 16 * PAGE, MUCH, 0, 0));
    T(mprotect(at + MUCH - PAGE, PAGE, PROT_READ | PROT_WRITE));
    T(at[MUCH - PAGE] = 5);
    T(move(at, MUCH - PAGE, 2 * MUCH, MREMAP_MAYMOVE | MREMAP_FIXED, (long)at + 2 * MUCH));
    T(move(at + 2 * MUCH, 2 * MUCH, 2 * MUCH, MREMAP_MAYMOVE | MREMAP_FIXED, (long)at + 4 * MUCH));
    T(at[MUCH - PAGE]);
    T(mprotect(at + 4 * MUCH, 2 * MUCH, PROT_READ | PROT_WRITE));
    T(mprotect(at + 4 * MUCH, PAGE, PROT_READ));
    T(move(at + 4 * MUCH, PAGE, 2 * PAGE, 0, 0));
    T(munmap(at, PAGE));
    T(munmap(at + MUCH - PAGE, PAGE));
    T(munmap(at + 4 * MUCH, 2 * MUCH));
}

int main(int count, char **arguments)
{
    if (count != 2 || image[0] != 1) return 2;
    char *own = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    wrong("memory", own);
    wrong("the image", image);
    wrong("nothing", (char *)ELSEWHERE + (1 << 30));
    T(move((char *)ELSEWHERE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0));
    T(move((char *)ELSEWHERE, PAGE, PAGE, MREMAP_MAYMOVE, 0));
    T(move((char *)ELSEWHERE, PAGE, MUCH, MREMAP_MAYMOVE, 0));
    T(move((char *)ELSEWHERE, PAGE, MUCH, FLAGS_FIXED, ELSEWHERE + MUCH));
    T(move(own, -1, PAGE, MREMAP_MAYMOVE, 0));
    T(move(own, 0, PAGE, MREMAP_MAYMOVE, 0));
    T(move(own, -2 * PAGE, PAGE, MREMAP_MAYMOVE, 0));
    T(move(own, 2 * END, END / 2, MREMAP_MAYMOVE, 0));
    T(move(own, MUCH, 2 * MUCH, MREMAP_MAYMOVE, 0));
    T(move(own, 0, MUCH, MREMAP_MAYMOVE, 0));
    T(move(image, 0, PAGE, MREMAP_MAYMOVE, 0));
    T(move(image, -1, MUCH, MREMAP_MAYMOVE, 0));
    /* What is upon the place is gone when the rest turns out to reach too far. */
    char *upon = mmap((void *)ELSEWHERE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    unsigned char there;
    T(mincore(upon, PAGE, &there));
    T(move(own, -2 * PAGE, PAGE, FLAGS_FIXED, ELSEWHERE));
    T(mincore(upon, PAGE, &there));
    /* So is what is to be moved, if it reaches so far that nothing seems to lie there. */
    for (long before = 0; before < 2; before++) {
        char *gone = (char *)ELSEWHERE + 64 * PAGE;
        T(map(gone, 4 * PAGE, PROT_READ));
        T(move(gone + PAGE, -PAGE, 2 * PAGE, FLAGS_FIXED, (long)gone + PAGE - before * PAGE));
        T(mincore(gone, PAGE, &there));
        T(mincore(gone + PAGE, PAGE, &there));
        T(mincore(gone + 2 * PAGE, PAGE, &there));
        T(munmap(gone, 4 * PAGE));
    }
    reservations((char *)ELSEWHERE + MUCH);
    /* Memory of its own where pages of the image were moves as any. */
    T(munmap((void *)image, PAGE));
    T(mmap((void *)image, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)image);
    *(volatile char *)image = 5;
    char *moved = (char *)syscall(SYS_mremap, image, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0);
    T(moved != MAP_FAILED && *moved == 5);
    return 0;
}
