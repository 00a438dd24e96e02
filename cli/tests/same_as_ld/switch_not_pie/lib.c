static const char *const names[] = {"no", "one", "two"};
__attribute__((noinline)) const char *name(int n) { return names[n % 3]; }
int kind(int n) {
    switch (n) {
    case 1: return name(n)[0];
    case 3: return name(n)[1] + 1;
    case 4: return n * n;
    case 5: return name(2)[0] - n;
    case 6: return n + 11;
    case 8: return n ^ 3;
    default: return n;
    }
}
