int f(void); int g(void) { return 2 + f(); }
