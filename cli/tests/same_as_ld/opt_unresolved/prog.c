#include <stdio.h>
extern int nowhere(void), nothing, in_library(int);
int (*volatile pointer)(void) = nowhere;
int main(int c, char **v) {
    printf("%p %p %d\n", (void *)pointer, (void *)&nothing, in_library(c));
    if (c > 5) return nowhere();
    return 0; (void)v;
}
