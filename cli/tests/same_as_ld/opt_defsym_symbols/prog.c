#include <stdio.h>
int numbers[10] = {0, 10, 20, 30};
int tentative;
int twice(int x) { return 2 * x; }
extern int third, also_tentative, other(int), absent __attribute__((weak));
extern char a[], b[], c[], d[], e[];
static int *const pointer = &third;
int main(void) {
    tentative = 7;
    printf("%d %d %d %d %d\n", third, *pointer, also_tentative, other(21), (char *)&third - (char *)numbers);
    printf("%p %p %p %p %p %p\n", a, b, c, d, e, (void *)&absent);
    return 0;
}
