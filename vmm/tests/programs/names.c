// Maps a file whose path is as long as it can be, so many times, has the monitor count, and stays. Usage: DIRECTORY TIMES.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define PAGE 4096l
int main(int c, char **v) {
    // Each character of a name is four where the kernel tells of it.
    char name[256];
    int at = open(v[1], O_RDONLY | O_DIRECTORY), times = atoi(v[2]), mapped = 0;
    memset(name, '\n', 255);
    name[255] = 0;
    for (int depth = 0; depth < 100; depth++) {
        if (mkdirat(at, name, 0700)) return 1;
        int inner = openat(at, name, O_RDONLY | O_DIRECTORY);
        close(at);
        at = inner;
    }
    int file = openat(at, "file", O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, PAGE)) return 1;
    char *low = mmap(0, 2 * times * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    while (mapped < times && mmap(low + 2 * mapped * PAGE, PAGE, PROT_NONE, MAP_PRIVATE | MAP_FIXED, file, 0) != MAP_FAILED) mapped++;
    char *most = mmap(0, 1l << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    printf("%d mapped, then %d\n", mapped, most != MAP_FAILED);
    fflush(stdout);
    pause();
    return 0;
}
