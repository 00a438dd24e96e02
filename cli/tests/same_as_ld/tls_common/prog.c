#include <stdio.h>
__thread int hits __attribute__((common));
__thread int misses __attribute__((common));
int main(void) {
    void *self;
    hits = 1, misses = 2;
    __asm__("mov %%fs:0, %0" : "=r"(self));
    printf("hits %d misses %d distinct %d\n", hits, misses, (void *)&hits != self && (void *)&misses != self);
    return 0;
}
