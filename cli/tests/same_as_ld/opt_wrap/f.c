int f(void) { return 1; }
int h(void) { return 3; }
int call_own(void) { return f(); }
