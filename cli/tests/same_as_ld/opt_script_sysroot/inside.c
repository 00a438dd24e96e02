int inside(void) { return 20; }
