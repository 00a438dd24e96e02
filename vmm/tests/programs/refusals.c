/* Random mmap, munmap, mprotect and mremap over 16384 pages, more than the limit allows: what is refused
 * changes nothing, and what was had holds its content. Usage: SEED STEPS. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES 16384
#define BASE 0x200000000UL
#define UNMAPPED (-1)
#define NOTHING 0
#define WRITABLE 1

static uint64_t state;
static signed char kind[PAGES];
static uint64_t value[PAGES];
static long refused;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static char *address(long page) { return (char *)(BASE + page * 4096); }

static void check(const char *what, long step, long page)
{
    volatile uint64_t *words = (uint64_t *)address(page);
    if (kind[page] != WRITABLE) return;
    if (words[0] != value[page] || words[511] != value[page]) {
        printf("%s: content at step %ld, page %ld\n", what, step, page);
        exit(1);
    }
    value[page] = next();
    words[0] = words[511] = value[page];
}

/* A call failed: only for want of memory, and without a change. */
static void refuse(const char *what, long step, long from, long count)
{
    if (errno != ENOMEM) {
        printf("%s: error %d at step %ld\n", what, errno, step);
        exit(1);
    }
    for (long page = from; page < from + count; page++) check(what, step, page);
    refused++;
}

static void set(long from, long count, int now, int zeros)
{
    for (long page = from; page < from + count; page++) {
        kind[page] = now;
        if (zeros) value[page] = 0;
    }
}

static int all(long from, long count, int least, int most)
{
    for (long page = from; page < from + count; page++)
        if (kind[page] < least || kind[page] > most) return 0;
    return 1;
}

static void move(long step, long from, long count)
{
    long to = next() % PAGES;
    if (to + count > PAGES) count = PAGES - to;
    if (!(to + count <= from || from + count <= to) || kind[from] == UNMAPPED) return;
    if (!all(from, count, kind[from], kind[from])) return;
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    if (mremap(address(from), count * 4096, count * 4096, flags, address(to)) != address(to)) {
        /* Linux before 6.17 does not move two mappings at once, alike as they are. */
        if (errno == EFAULT) return;
        return refuse("mremap", step, from, count);
    }
    for (long n = 0; n < count; n++) value[to + n] = value[from + n];
    set(to, count, kind[from], 0);
    set(from, count, UNMAPPED, 0);
}

static void change(long step, long from, long count)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, protection;
    switch (next() % 7) {
    case 0: case 1:
        if (mmap(address(from), count * 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
            refuse("mmap", step, from, count);
        else
            set(from, count, WRITABLE, 1);
        break;
    case 2:
        if (mmap(address(from), count * 4096, PROT_NONE, flags, -1, 0) == MAP_FAILED) exit(2);
        set(from, count, NOTHING, 1);
        break;
    case 3:
        if (munmap(address(from), count * 4096)) exit(3);
        set(from, count, UNMAPPED, 0);
        break;
    case 4:
        if (!all(from, count, NOTHING, WRITABLE)) break;
        protection = next() % 3 ? PROT_READ | PROT_WRITE : PROT_NONE;
        if (mprotect(address(from), count * 4096, protection))
            refuse("mprotect", step, from, count);
        else
            set(from, count, protection ? WRITABLE : NOTHING, 0);
        break;
    case 5:
        move(step, from, count);
    }
}

int main(int words, char **word)
{
    if (words != 3) return 4;
    state = strtoul(word[1], 0, 0) * 2654435761u + 88172645463325252UL;
    memset(kind, UNMAPPED, PAGES);
    for (long step = 0; step < atol(word[2]); step++) {
        long from = next() % PAGES, count = next() % 3 ? next() % 30 + 1 : next() % 1500 + 1;
        if (next() % 6 == 0) {
            from &= ~511;
            count = 512 * (1 + next() % 3);
        }
        if (from + count > PAGES) count = PAGES - from;
        change(step, from, count);
        for (int n = 0; n < 40; n++) check("later", step, n < 20 ? from + next() % count : next() % PAGES);
    }
    printf("%ld\n", refused);
    return 0;
}
