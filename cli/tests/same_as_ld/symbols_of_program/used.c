static int __attribute__((noinline)) hidden(int n) { return n * 3; }
int used(int n) { return hidden(n) + 1; }
