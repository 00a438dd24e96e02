#if N == 1
int value;
int get1(void) { return value += 1; }
#elif N == 2
__attribute__((weak)) int value = 20;
int get2(void) { return value += 2; }
#else
__attribute__((weak)) int value = 30;
int get3(void) { return value += 3; }
#endif
