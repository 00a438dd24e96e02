#include "table.h"
static int of_library(int n) { return n + 1; }
CALL(".calls.15", of_library);
int member(void) { return 1000; }
