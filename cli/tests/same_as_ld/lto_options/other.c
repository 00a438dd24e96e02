int __real_outside(int);
__attribute__((noipa)) int outside(int n) { return n + 100; }
__attribute__((noipa)) int __wrap_outside(int n) { return __real_outside(n) + 5; }
__attribute__((noipa)) int target(int n) { return n * 3; }
int kept(void) { return 1; }
