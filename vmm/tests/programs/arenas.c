/* What glibc does for each arena: reserves 128 MiB, cuts them to an aligned 64 MiB, opens the first part. */
#include <stdio.h>
#include <sys/mman.h>

#define ARENA (64UL << 20)

int main(void)
{
    for (int n = 0; n < 64; n++) {
        char *room = mmap(0, 2 * ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED) return 1;
        char *arena = (char *)(((unsigned long)room + ARENA - 1) & ~(ARENA - 1));
        if (arena > room) munmap(room, arena - room);
        munmap(arena + ARENA, ARENA - (arena - room));
        if (mprotect(arena, 132 * 1024, PROT_READ | PROT_WRITE)) return 2;
        arena[0] = 1;
    }
    puts("ok");
    return 0;
}
