#include <stdio.h>
__attribute__((constructor)) static void never(void) { puts("an unused member runs"); }
int unused(void) { return 1; }
