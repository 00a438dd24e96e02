#include "table.h"
static int first(int n) { return n + 10; }
CALL(".calls.10", first);
static int last(int n) { return n * 100; }
CALL(".calls", last);
