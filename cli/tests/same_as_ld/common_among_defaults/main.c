#include <stdio.h>
int get1(void), get2(void), get3(void);
int main(void) {
    int a = get1(), b = get2(), c = get3();
    printf("%d %d %d\n", a, b, c);
    return 0;
}
