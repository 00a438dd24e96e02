/* What a guest could make its monitor keep for ever: areas, unknown call numbers, descriptors. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    for (long n = 0; n < 100000; n++) syscall(100000 + n);
    long areas = 0, error = 0;
    for (; areas < 200000; areas++) {
        char *at = (char *)(0x200000000000 + areas * 8192);
        if (mmap(at, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) { error = errno; break; }
    }
    printf("%d %d\n", areas > 60000 && areas <= 65530, error == ENOMEM);
    /* One TiB costs nothing, and can go in one piece, with all that lies there. */
    printf("%d\n", munmap((void *)0x200000000000, 1L << 40));
    char *at = mmap(0, 1L << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    printf("%d\n", at == MAP_FAILED);
    int open = 0;
    while (dup(1) >= 0) open++;
    printf("%d %d\n", open < 16384, errno == EMFILE);
    return 0;
}
