extern int seen;
__attribute__((constructor)) static void start(void) { seen = 7; }
