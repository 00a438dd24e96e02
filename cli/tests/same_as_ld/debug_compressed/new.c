struct three { int in_zstd; struct three *next; } third = {3, &third};
int of_third(void) { return third.next->in_zstd; }
