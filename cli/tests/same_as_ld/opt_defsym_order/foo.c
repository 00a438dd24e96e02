#include <stdio.h>
__attribute__((constructor)) static void c(void) { puts("foo's member"); }
int foo(void) { return 1; }
