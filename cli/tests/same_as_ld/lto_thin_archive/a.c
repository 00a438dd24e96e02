int a(void) { return 5; }
