#include <stdio.h>
int missing(void);
int kept_by_name(void) { return missing() * 0; }
int unused(void) { return missing(); }
static int counted;
__attribute__((constructor)) static void first(void) { counted += 1; }
__attribute__((constructor(200))) static void second(void) { counted += 10; }
__attribute__((destructor)) static void last(void) { puts("last"); }
__attribute__((section(".init_array.00300"), used)) static void (*const third)(void) = second;
__attribute__((section(".ctors"), used)) static void (*const old)(void) = first;
__attribute__((ifunc("choose"))) int chosen(void);
static int two(void) { return 2; }
static void *choose(void) { counted += 100; return two; }
static int (*table[])(void) = {chosen};
int main(void) { printf("%d %d\n", counted > 20, table[0]()); return 0; }
