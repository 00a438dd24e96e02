#include <stdio.h>
extern int kind(int);
static int depth;
/* A table of the compiler's, jumped through with registers in use. */
__attribute__((noinline)) int step(int which, int a, int b, int c) {
    depth++;
    switch (which) {
    case 0: return a + b * c;
    case 1: return kind(a) - b + c;
    case 2: return a * 3 + kind(b) * c;
    case 3: return kind(kind(c)) + a;
    case 4: return a ^ b ^ c;
    case 5: return kind(b) << 2;
    case 6: return a - kind(c);
    case 7: return b / (c | 1);
    default: return -1;
    }
}
int main(void) {
    int sum = 0;
    for (int which = 0; which < 9; which++) sum = sum * 7 + step(which, which + 1, 2 * which, 5);
    printf("%d %d\n", sum, depth);
    return 0;
}
