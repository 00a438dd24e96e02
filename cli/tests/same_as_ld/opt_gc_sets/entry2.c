#include "set.h"
IN(walked) d = 2;
__attribute__((section("sentinels"))) const int needed2 = 5;
int entry2(void) { return needed2; }
