/* Random mmap, munmap, mprotect, madvise, mremap and sweeps over 8192 pages, compared after each step with
 * what the pages should hold and allow, for the program and for calls. Usage: SEED STEPS. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BASE 0x100000000UL
#define PAGES 8192
#define UNMAPPED (-1)

static uint64_t state;
static int protection[PAGES];
static uint64_t value[PAGES];

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void wrong(long step, const char *what, long page)
{
    printf("step %ld: %s at page %ld (protection %d, value %lx)\n", step, what, page, protection[page],
           (unsigned long)value[page]);
    exit(3);
}

static char *address(long page) { return (char *)(BASE + page * 4096); }

static int all_mapped(long from, long count)
{
    for (long page = from; page < from + count; page++)
        if (protection[page] == UNMAPPED) return 0;
    return 1;
}

static void move(long step, long from)
{
    long to = next() % PAGES, count = next() % 20 + 1;
    if (to + count > PAGES) count = PAGES - to;
    if (from + count > PAGES) count = PAGES - from;
    /* More than is moved, which goes, of whatever mappings it is; what is moved is of one then. */
    long more = next() % 3 ? 0 : next() % 8;
    if (from + 1 + more > PAGES) more = 0;
    if (more) count = 1;
    if (!(to + count <= from || from + count + more <= to) || protection[from] == UNMAPPED) return;
    for (long page = from; page < from + count; page++)
        if (protection[page] != protection[from]) return;
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    void *moved = mremap(address(from), (count + more) * 4096, count * 4096, flags, address(to));
    if (moved != address(to)) {
        /* Linux does not move two mappings at once, alike as they are, before 6.17. */
        if (errno == EFAULT) return;
        wrong(step, "mremap", from);
    }
    for (long n = count; n < count + more; n++) protection[from + n] = UNMAPPED;
    for (long n = 0; n < count; n++) {
        protection[to + n] = protection[from + n];
        value[to + n] = value[from + n];
        protection[from + n] = UNMAPPED;
    }
}

/* One page, which lies in one mapping, becomes a mapping of several elsewhere. */
static void grow(long step, long from)
{
    long to = next() % PAGES, count = next() % 600 + 2;
    if (to + count > PAGES) count = PAGES - to;
    if ((to <= from && from < to + count) || protection[from] == UNMAPPED) return;
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    if (mremap(address(from), 4096, count * 4096, flags, address(to)) != address(to)) wrong(step, "growing mremap", from);
    for (long n = 0; n < count; n++) {
        protection[to + n] = protection[from];
        value[to + n] = n ? 0 : value[from];
    }
    protection[from] = UNMAPPED;
}

/* Memory is touched in order, upwards or downwards. */
static void sweep(long step, long from, long count)
{
    int down = next() % 2, write = next() % 4;
    for (long n = 0; n < count; n++) {
        long page = down ? from + count - 1 - n : from + n;
        volatile uint64_t *words = (uint64_t *)address(page);
        if (protection[page] < PROT_READ) continue;
        if (words[0] != value[page] || words[511] != value[page]) wrong(step, "swept content", page);
        if (write && protection[page] == (PROT_READ | PROT_WRITE)) words[0] = words[511] = value[page] = next();
    }
}

static void change(long step, long from, long count)
{
    static const int protections[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                                       PROT_READ | PROT_WRITE };
    int wanted = protections[next() % 5];
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (next() % 4 ? 0 : MAP_NORESERVE);
    switch (next() % 10) {
    case 0: case 1: case 2:
        if (mmap(address(from), count * 4096, wanted, flags, -1, 0) != address(from)) wrong(step, "mmap", from);
        for (long page = from; page < from + count; page++) {
            protection[page] = wanted;
            value[page] = 0;
        }
        break;
    case 3:
        if (munmap(address(from), count * 4096)) wrong(step, "munmap", from);
        for (long page = from; page < from + count; page++) protection[page] = UNMAPPED;
        break;
    case 4: case 5:
        if (!all_mapped(from, count)) break;
        if (mprotect(address(from), count * 4096, wanted)) wrong(step, "mprotect", from);
        for (long page = from; page < from + count; page++) protection[page] = wanted;
        break;
    case 6:
        if (!all_mapped(from, count)) break;
        if (madvise(address(from), count * 4096, MADV_DONTNEED)) wrong(step, "madvise", from);
        for (long page = from; page < from + count; page++) value[page] = 0;
        break;
    case 7:
        sweep(step, from, count);
        break;
    case 8:
        grow(step, from);
        break;
    default:
        move(step, from);
    }
}

static void check(long step, long page)
{
    volatile uint64_t *words = (uint64_t *)address(page);
    int readable = protection[page] >= PROT_READ, writable = protection[page] == (PROT_READ | PROT_WRITE);
    if (readable && (words[0] != value[page] || words[511] != value[page])) wrong(step, "content", page);
    if (writable && next() % 2) {
        value[page] = next();
        words[0] = words[511] = value[page];
    }
    if (next() % 6 == 0) {
        long done = syscall(SYS_clock_gettime, 1, address(page) + 64);
        if ((done == 0) != writable) wrong(step, "a call's write", page);
        if (writable) memset(address(page) + 64, 0, 16);
    }
    if (next() % 6 == 0) {
        errno = 0;
        syscall(SYS_rt_sigprocmask, 9, address(page) + 128, 0, 8);
        if ((errno == EFAULT) == readable) wrong(step, "a call's read", page);
    }
}

int main(int count, char **arguments)
{
    if (count != 3) return 2;
    state = strtoul(arguments[1], 0, 0) * 2654435761u + 88172645463325252UL;
    for (long page = 0; page < PAGES; page++) protection[page] = UNMAPPED;
    for (long step = 0; step < atol(arguments[2]); step++) {
        long from = next() % PAGES, pages = next() % 4 ? next() % 40 + 1 : next() % 2000 + 1;
        if (next() % 8 == 0) {
            from &= ~511;
            pages = 512 * (1 + next() % 3);
        }
        if (from + pages > PAGES) pages = PAGES - from;
        change(step, from, pages);
        for (int n = 0; n < 24; n++) check(step, n < 12 ? from + next() % pages : next() % PAGES);
    }
    uint64_t sum = 0;
    for (long page = 0; page < PAGES; page++)
        sum = sum * 31 + protection[page] * 7 + value[page] * (protection[page] != UNMAPPED);
    printf("ok %lx\n", (unsigned long)sum);
    return 0;
}
