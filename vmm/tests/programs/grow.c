/* Tries to have what follows pages of the image in the pool: by longer mappings, second ones, and ones elsewhere. Says
   how many pages it could read of each, and how often it found the first argument, which is written backwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define MUCH (16ul << 20)
/* Pages of each kind: not zeros, and none like another. */
#define ROWS(n) {n, 1}, {n, 2}, {n, 3}, {n, 4}
__attribute__((aligned(4096))) static char data[4][PAGE] = {ROWS(1)};
__attribute__((aligned(4096))) static const char text[4][PAGE] = {ROWS(2)};

static char wanted[64];
static unsigned long pages, hits;

static void look(const char *at)
{
    static char page[PAGE];
    int ends[2];
    unsigned long length = strlen(wanted);
    if (pipe(ends)) return;
    /* Where nothing is, the call fails. */
    for (unsigned long done = 0; done < MUCH && write(ends[1], at + done, PAGE) == PAGE; done += PAGE) {
        if (read(ends[0], page, PAGE) != PAGE) break;
        pages++;
        for (unsigned long i = 0; i + length <= PAGE; i++) hits += !memcmp(page + i, wanted, length);
    }
    close(ends[0]);
    close(ends[1]);
}

static void attempt(const char *what, const char *at, unsigned long old, unsigned long length, int flags, char *to)
{
    long found = syscall(SYS_mremap, at, old, length, flags, to);
    pages = hits = 0;
    if (found != -1) look((char *)found);
    printf("%s: %s, %lu pages, %lu hits\n", what, found == -1 ? strerror(errno) : "moved", pages, hits);
}

int main(int argc, char **argv)
{
    const int move = MREMAP_MAYMOVE, fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
    unsigned long length = strlen(argv[1]);
    char *room = mmap(0, MUCH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (unsigned long i = 0; i < length; i++) wanted[i] = argv[1][length - 1 - i];
    /* Touched, as the program's own would be. */
    for (volatile int i = 0; i < 4; i++) data[i][9] += text[i][0];
    const char *places[] = {data[1], text[1]}, *names[] = {"data", "text"};
    for (int i = 0; i < 2; i++) {
        puts(names[i]);
        attempt("longer", places[i], PAGE, MUCH, move, 0);
        attempt("by its last byte", places[i] + PAGE - 1, 1, MUCH, move, 0);
        attempt("a second one", places[i], 0, MUCH, move, 0);
        attempt("so long that it is nothing", places[i], -1, MUCH, move, 0);
        attempt("longer, elsewhere", places[i], PAGE, MUCH, fixed, room);
        attempt("as long, elsewhere", places[i], PAGE, PAGE, fixed, room);
        /* What does not move loses nothing. */
        attempt("shorter, elsewhere", places[i], 2 * PAGE, PAGE, fixed, room);
        attempt("longer, of elsewhere", room, PAGE, MUCH, move, 0);
        room = mmap(0, MUCH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        attempt("all, elsewhere", places[i] - PAGE, 4 * PAGE, 4 * PAGE, fixed, room);
    }
    /* What is the guest's own moves. */
    char *own = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(own, "own");
    char *moved = mremap(own, 2 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
    printf("own: %s\n", moved == MAP_FAILED ? strerror(errno) : moved);
    printf("data %d, text %d\n", data[2][1], text[2][1]);
    return 0;
}
