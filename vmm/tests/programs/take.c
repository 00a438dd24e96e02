// Takes memory in one of many ways until it is refused; says how much of it was written, in MiB. With a second word
// another thread does, when the first has left.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define STEP (4l << 20)
#define MOST (1l << 30)
static char *map(int protection, int flags) {
    char *p = mmap(0, STEP, protection, flags | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? 0 : p;
}
static char *take(const char *how, long done) {
    static char *last;
    char *p;
    if (!strcmp(how, "private")) return map(3, MAP_PRIVATE);
    if (!strcmp(how, "shared")) return map(3, MAP_SHARED);
    if (!strcmp(how, "growing")) return map(3, MAP_PRIVATE | MAP_GROWSDOWN);
    if (!strcmp(how, "shared-none")) return (p = map(0, MAP_SHARED)) && !mprotect(p, STEP, 3) ? p : 0;
    if (!strcmp(how, "promised")) return (p = map(0, MAP_PRIVATE | MAP_NORESERVE)) && !mprotect(p, STEP, 3) ? p : 0;
    if (!strcmp(how, "heap")) return (p = sbrk(STEP)) == (void *)-1 ? 0 : p;
    if (!strcmp(how, "moved")) {
        p = done ? mremap(last, done, done + STEP, MREMAP_MAYMOVE) : map(3, MAP_PRIVATE);
        if (p == MAP_FAILED || !p) return 0;
        last = p;
        return p + done;
    }
    if (!strcmp(how, "zeros")) {
        static int fd;
        if (!fd && mmap(0, MOST, 3, MAP_SHARED, fd = open("/dev/zero", O_RDWR), 0) != MAP_FAILED) return 0;
        p = mmap(0, STEP, 3, MAP_SHARED, fd, 0);
        return p == MAP_FAILED ? 0 : p;
    }
    if (!strcmp(how, "zeros-none")) {
        if (!last && (last = mmap(0, MOST, 0, MAP_SHARED, open("/dev/zero", O_RDWR), 0)) == MAP_FAILED) return 0;
        if (!done && !mprotect(last, MOST, 3)) return 0;
        return mprotect(last + done, STEP, 3) ? 0 : last + done;
    }
    if (!strncmp(how, "given-up-heap", 13)) {
        /* As much as may be had, at once, when as much has been given up; then the heap. */
        static char *most, *next, *heap;
        const long large = 56l << 20;
        /* What the heap did not become, or is no more, is not what it may become for nothing. */
        if (!done && !strcmp(how + 13, "-refused")) syscall(SYS_brk, (long)sbrk(0) + (1l << 40));
        if (done < large) return take("given-up-whole", done);
        if (!most && !strcmp(how + 13, "-shrunk")) sbrk(large), sbrk(-large);
        if (!most && (next = most = mmap(0, large, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) == MAP_FAILED) return 0;
        if (next < most + large) return (next += STEP) - STEP;
        if (!heap) mprotect(most, large, PROT_NONE), sbrk(-(long)sbrk(0) & 4095);
        if (heap && mprotect(heap, STEP, PROT_NONE)) return 0;
        return (heap = sbrk(STEP)) == (void *)-1 ? 0 : heap;
    }
    if (!strncmp(how, "given-up", 8)) {
        if (last && mprotect(last, STEP, how[8] ? PROT_NONE : PROT_READ)) return 0;
        return last = map(3, MAP_PRIVATE);
    }
    return 0;
}
static pthread_t first;
static void *all(void *how) {
    long done = 0;
    char *p;
    if (first) pthread_join(first, 0);
    while (done < MOST && (p = take(how, done))) {
        memset(p, 1, STEP);
        done += STEP;
    }
    printf("%ld\n", done >> 20);
    exit(0);
}
int main(int c, char **v) {
    pthread_t other;
    pthread_attr_t small;
    if (c < 3) all(v[1]);
    first = pthread_self();
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    if (pthread_create(&other, &small, all, v[1])) return 1;
    syscall(SYS_exit, 0);
}
