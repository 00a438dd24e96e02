#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern int allocations;
volatile __int128 big = 1;
volatile double of = 2.5;
struct large { char bytes[5000]; } from, to;
int main(int argc, char **argv) {
    (void)argv;
    big = (big << 90) / (argc + 2);
    from.bytes[4999] = 9;
    to = from;
    char *copy = strdup("copied");
    printf("%llx %d %s %d %g\n", (unsigned long long)(big >> 40), to.bytes[4999], copy, allocations > 0, __builtin_pow(of, argc + 2));
    return 0;
}
