int forced(void) { return 1; }
