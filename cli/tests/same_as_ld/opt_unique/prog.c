#include <stdio.h>
__attribute__((section(".data.own.a"))) int a = 1;
__attribute__((section(".data.own.bb"))) int b = 2;
__attribute__((section(".data.own.c"))) int c = 3;
int main(void) {
    FILE *found = fopen("found", "r");
    for (int byte; (byte = fgetc(found)) != EOF;) putchar(byte);
    printf("%d\n", a + b + c);
    return 0;
}
