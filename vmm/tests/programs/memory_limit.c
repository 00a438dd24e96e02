/* Every way to more memory that programs know, until there is no more: prints how many MiB could be had
 * and written so far. Usage: WAY. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB (1L << 20)
#define PIECE (MIB / 4)
/* Enough to pass any limit of the tests, and little enough for the machine. */
#define MOST (512 * MIB)

static char *reserve(long bytes)
{
    char *at = mmap(0, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) exit(4);
    return at;
}

static long had;

static int have(char *at, long bytes)
{
    if (at == MAP_FAILED) return 0;
    memset(at, 1, bytes);
    static long said;
    if ((had + bytes) / MIB > said) dprintf(1, "%ld\n", said = (had + bytes) / MIB);
    return 1;
}

static char *map(void *at, long bytes, int flags)
{
    return mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

int main(int count, char **arguments)
{
    const char *way = count > 1 ? arguments[1] : "";
    char *room = reserve(MOST);
    char *stack = (char *)(((unsigned long)&count + 4095) & ~4095UL);
    dprintf(1, "0\n");
    /* Costs nothing, and can all be touched as far as the limit goes. */
    if (!strcmp(way, "overcommitted")) {
        char *all = map(0, 2L << 30, 0);
        while (had < MOST && have(all + had, PIECE)) had += PIECE;
    }
    /* Shared by name only: there is no other process. */
    if (!strcmp(way, "shared")) {
        char *all = mmap(0, MOST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        while (had < MOST && have(all + had, PIECE)) had += PIECE;
    }
    /* A call touches it on the program's behalf. */
    if (!strcmp(way, "call")) {
        char *all = map(0, MOST, 0);
        for (; had < MOST; had += PIECE) {
            if (syscall(SYS_getrandom, all + had, 256, 0) < 0 || mlock(all + had, PIECE)) {
                dprintf(1, "%m\n");
                return 0;
            }
            if ((had + PIECE) / MIB != had / MIB) dprintf(1, "%ld\n", (had + PIECE) / MIB);
        }
    }
    if (!strcmp(way, "mmap"))
        while (had < MOST && have(map(0, PIECE, 0), PIECE)) had += PIECE;
    if (!strcmp(way, "mprotect"))
        while (had < MOST && !mprotect(room + had, PIECE, PROT_READ | PROT_WRITE) && have(room + had, PIECE)) had += PIECE;
    /* What was written stays there when it may not be touched any more. */
    if (!strcmp(way, "hidden"))
        while (had < MOST && !mprotect(room + had, PIECE, PROT_READ | PROT_WRITE) && have(room + had, PIECE)) {
            mprotect(room + had, PIECE, PROT_NONE);
            had += PIECE;
        }
    if (!strcmp(way, "fixed"))
        while (had < MOST && have(map(room + had, PIECE, MAP_FIXED), PIECE)) had += PIECE;
    if (!strcmp(way, "beside-the-stack")) /* Beyond the monitor's addresses. */
        while (had < MOST && have(map(stack + (2 << 20) + had, PIECE, MAP_FIXED), PIECE)) had += PIECE;
    if (!strcmp(way, "brk")) {
        char *heap = (char *)syscall(SYS_brk, 0);
        while (had < MOST && (char *)syscall(SYS_brk, heap + had + PIECE) == heap + had + PIECE && have(heap + had, PIECE)) had += PIECE;
    }
    if (!strcmp(way, "mremap")) {
        char *at = map(0, PIECE, 0);
        while (had + PIECE <= MOST && at != MAP_FAILED && have(at + had, PIECE)) {
            had += PIECE;
            at = mremap(at, had, had + PIECE, MREMAP_MAYMOVE);
        }
    }
    /* A page in each window: the page tables count too. */
    if (!strcmp(way, "scattered")) {
        char *far = reserve(1L << 40);
        for (long n = 0; had < MOST && n < 1L << 19; n++, had += 8192)
            if (mprotect(far + n * 2 * MIB, 4096, PROT_READ | PROT_WRITE) || !have(far + n * 2 * MIB, 4096)) break;
    }
    return 0;
}
