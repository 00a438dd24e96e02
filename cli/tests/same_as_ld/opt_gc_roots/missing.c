int missing(void) { return 5; }
