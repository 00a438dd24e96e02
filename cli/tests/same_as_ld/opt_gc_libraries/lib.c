int nowhere(int);
int used(void) { return 3; }
int unused(void) { return nowhere(1); }
int (*unused_pointer)(int) = nowhere;
