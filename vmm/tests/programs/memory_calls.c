/* Random calls about memory with arguments of every kind: prints what each returns, and what 16 pages then hold
 * and allow. Two kernels that agree print the same. Usage: SEED STEPS FILE SHARED_FILE MOVES_SEVERAL
 * HIDES_CODE.
 *
 * Left out is what a kernel may do either way: what MADV_FREE leaves, whether neighbours that are alike are one
 * mapping, where a mapping without an address goes. And with HIDES_CODE, whether pages that may be executed alone can be
 * read: a kernel of a processor with protection keys keeps programs from it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES 2048UL
/* Shared memory lies in the first pages, and nothing is moved from there. */
#define SHARED 128UL
#define BASE 0x100000000UL
#define END (BASE + PAGES * PAGE)
#define FIXED (MREMAP_MAYMOVE | MREMAP_FIXED)

static uint64_t state;
static sigjmp_buf back;
static volatile int fault;
static char some[1 << 16];
static unsigned char there[1 << 16];
static int file, shared, moves, hidden, pipes[2];
static char *heap;

static uint64_t next(uint64_t most)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % most;
}

static void caught(int signal, siginfo_t *info, void *context)
{
    (void)context;
    fault = signal * 16 + info->si_code;
    siglongjmp(back, 1);
}

static int load(uint64_t at)
{
    fault = 0;
    return sigsetjmp(back, 0) ? 0 : *(volatile unsigned char *)at;
}

static void store(uint64_t at, int value)
{
    fault = 0;
    if (!sigsetjmp(back, 0)) *(volatile char *)at = value;
}

static uint64_t address(void)
{
    switch (next(40)) {
    case 0: return BASE + next(PAGES * PAGE);
    case 1: return ~0UL - next(8192);
    case 2: return (1UL << 47) - PAGE * next(3);
    case 3: return ~0xfffUL;
    default: return BASE + next(PAGES) * PAGE;
    }
}

static uint64_t length(void)
{
    switch (next(30)) {
    case 0: return 0;
    case 1: return ~0UL - next(8192);
    case 2: return next(1 << 16);
    case 3: return 1UL << 31;
    case 4: return 512 * PAGE * (1 + next(3));
    default: return PAGE * (1 + next(next(4) ? 12 : 300));
    }
}

static int protection(void)
{
    static const int kinds[] = { 0, 1, 3, 3, 3, 3, 1, 5, 2, 4, 7, 8, 0x10 };
    int kind = kinds[next(next(6) ? 7 : 13)];
    return kind == PROT_EXEC && hidden ? PROT_EXEC | PROT_READ : kind;
}

static void said(const char *call, uint64_t a, uint64_t b, uint64_t c, long result)
{
    printf("%s(%lx,%lx,%lx) = %s\n", call, a, b, c, result == -1 ? strerror(errno) : "done");
}

static uint64_t map(void)
{
    uint64_t at = address(), bytes = length(), offset = 0;
    int flags = next(6) ? MAP_PRIVATE : next(3) ? MAP_SHARED : next(8), fd = -1, kind = protection();
    if (next(3) == 0) {
        flags = MAP_PRIVATE;
        fd = next(30) ? file : 777;
        offset = next(20) ? next(40) * PAGE : next(3) ? (1UL << 63) - next(64) * PAGE : next(100000);
    } else {
        flags |= MAP_ANONYMOUS;
        offset = next(10) ? 0 : next(3) * PAGE + next(2);
    }
    if (flags & MAP_ANONYMOUS && (flags & 3) == MAP_SHARED) {
        at = BASE + next(SHARED - 28) * PAGE;
        bytes = PAGE * (1 + next(20));
        if (next(2)) {
            flags &= ~MAP_ANONYMOUS;
            fd = shared;
            offset = next(40) * PAGE;
        }
    } else if (at >= BASE && at < BASE + SHARED * PAGE) at += SHARED * PAGE;
    /* At the very end Linux takes the address for an error. */
    if (at > ~0UL - 8192) at &= ~0xfffUL;
    switch (next(8)) {
    case 0: flags |= MAP_FIXED_NOREPLACE; break;
    case 1: if (at % PAGE == 0 && at < END) break; /* else falls through */
    default: flags |= MAP_FIXED;
    }
    flags |= (next(5) ? 0 : MAP_NORESERVE) | (next(8) ? 0 : MAP_POPULATE);
    if (at < END && at + bytes > END && at + bytes > at) bytes %= 64 * PAGE;
    if (at < END && at + bytes > END) at = END - 64 * PAGE;
    errno = 0;
    long result = syscall(SYS_mmap, at, bytes, kind, flags, fd, offset);
    if (result != -1 && (uint64_t)result != at) {
        munmap((void *)result, bytes);
        printf("elsewhere ");
    }
    printf("protection %x flags %x file %d at %lx ", kind, flags, fd > 0 ? fd == 777 ? 2 : fd == shared ? 3 : 1 : 0, offset);
    said("mmap", at, bytes, 0, result);
    return at;
}

static uint64_t move(void)
{
    uint64_t from = address(), old = length(), new = next(3) ? old : length(), to = address();
    int flags = next(8) ? next(4) : 8;
    if (from >= BASE && from < BASE + SHARED * PAGE) from += SHARED * PAGE;
    if (to < END && to + new > END) new = old = 3 * PAGE;
    if (to < END && to + new > END) to -= 3 * PAGE;
    if (from + old > from && new > 1UL << 32 && new < 1UL << 60) new = 1UL << 46;
    if (new != old) old = old ? PAGE : 0;
    if (!moves && flags == FIXED) new = old = PAGE;
    long result = syscall(SYS_mremap, from, old, new, flags, to);
    if (result != -1 && (uint64_t)result != from && !(flags & MREMAP_FIXED)) {
        uint64_t sum = 0;
        for (uint64_t at = 0; at < new && at < 400 * PAGE; at += PAGE) sum = sum * 31 + load(result + at) + fault;
        munmap((void *)result, new);
        printf("elsewhere %lx ", sum);
    }
    printf("to %lx flags %d ", to, flags);
    said("mremap", from, old, new, result);
    return from;
}

static uint64_t advise(void)
{
    static const int advice[] = { 0, 1, 2, 3, 4, 4, 4, 4, 9, 10, 11, 14, 15, 16, 17, 22, 23, 22, 23, 99, -1 };
    uint64_t at = address(), bytes = length();
    int kind = advice[next(21)];
    said("madvise", at, bytes, kind, syscall(SYS_madvise, at, bytes, kind));
    return at;
}

static uint64_t pass(void)
{
    uint64_t at = address(), bytes = 1 + next(20000);
    int out = next(2);
    /* What a pipe holds comes whole or not at all, page by page; a monitor may say how much fitted. */
    if (!out && bytes > PAGE - at % PAGE) bytes = PAGE - at % PAGE;
    if (!out) (void)!write(pipes[1], some, bytes);
    long done = out ? write(pipes[1], (void *)at, bytes) : read(pipes[0], (void *)at, bytes);
    printf("%ld ", done);
    said(out ? "write" : "read", at, bytes, 0, done);
    fcntl(pipes[0], F_SETFL, O_NONBLOCK);
    while (read(pipes[0], some, sizeof some) > 0) {}
    fcntl(pipes[0], F_SETFL, 0);
    memset(some, 0, sizeof some);
    return at;
}

static uint64_t step(void)
{
    uint64_t at = address(), bytes = length(), other;
    switch (next(14)) {
    case 0: case 1: case 2: return map();
    case 3: said("munmap", at, bytes, 0, syscall(SYS_munmap, at, bytes)); break;
    case 4: case 5:
        other = protection();
        said("mprotect", at, bytes, other, syscall(SYS_mprotect, at, bytes, other));
        break;
    case 6: case 7: return move();
    case 8: case 9: return advise();
    case 10: bytes %= 1 << 27; said("mincore", at, bytes, 0, syscall(SYS_mincore, at, bytes, there)); break;
    case 11: other = next(10); said("msync", at, bytes, other, syscall(SYS_msync, at, bytes, other)); break;
    case 12:
        other = next(8) ? next(1 << 21) : next(2) ? -(uint64_t)heap : ~0xfffUL - (uint64_t)heap;
        printf("brk(%lx) = %lx\n", other < 1 << 21 ? other : 0, syscall(SYS_brk, heap + other) - (long)heap);
        break;
    default: return pass();
    }
    return at;
}

int main(int count, char **arguments)
{
    static char stack[1 << 16];
    stack_t other = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
    if (count != 7) return 2;
    setvbuf(stdout, malloc(1 << 16), _IOFBF, 1 << 16);
    state = strtoul(arguments[1], 0, 0) * 2654435761u + 88172645463325252UL;
    file = open(arguments[3], O_RDWR);
    shared = open(arguments[4], O_RDWR);
    moves = atoi(arguments[5]);
    hidden = atoi(arguments[6]);
    if (file < 0 || shared < 0 || pipe(pipes)) return 2;
    sigaltstack(&other, 0);
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    heap = (char *)syscall(SYS_brk, 0);
    for (long n = 0; n < atol(arguments[2]); n++) {
        printf("%ld ", n);
        uint64_t at = step(), page = at >= BASE && at < END ? (at - BASE) / PAGE : 0;
        for (int k = 0; k < 16; k++) {
            uint64_t probed = k < 8 ? (page + next(16)) % PAGES : next(PAGES);
            int value = load(BASE + probed * PAGE + 100);
            printf(" %lx:%x/%x", probed, value, fault);
            if (next(2)) {
                store(BASE + probed * PAGE + 100, next(256));
                printf("/%x", fault);
            }
        }
        printf("\n");
    }
    return 0;
}
