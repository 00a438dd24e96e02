#include "set.h"
IN(walked) d = 2;
IN(weakly) e = 3;
IN(sentinels) f = 4;
__attribute__((section("sentinels"))) const int needed = 5;
void entry(void) {}
