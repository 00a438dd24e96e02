#include "table.h"
static int third(int n) { return n - 3; }
CALL(".calls.30", third);
