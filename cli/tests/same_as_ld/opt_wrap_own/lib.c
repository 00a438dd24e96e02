__attribute__((weak)) int hook(void) { return 32; }
int take(int (*f)(void)) { return f ? f() : hook(); }
int (*volatile pointer)(void) = hook;
int own(void) { return pointer(); }
