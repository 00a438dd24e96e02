extern int value, *const there; extern __thread int mine;
int get(void) { return value + *there; }
int get_mine(void) { return mine; }
