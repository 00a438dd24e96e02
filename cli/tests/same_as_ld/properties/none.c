int none(void) { return 1; }
