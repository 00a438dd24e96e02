#include <stdio.h>
int common_of_all;
int weak_in_code(void) { return 20; }
__attribute__((constructor(200))) static void early(void) { puts("early constructor of other"); }
__attribute__((destructor)) static void late(void) { puts("destructor of other"); }
