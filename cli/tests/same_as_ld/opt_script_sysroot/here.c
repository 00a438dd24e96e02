int here(void) { return 300; }
