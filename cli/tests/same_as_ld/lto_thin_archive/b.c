int b(void) { return 6; }
