#include <stdio.h>
int forced(void), inside(void), here(void);
int main(void) { printf("%d\n", forced() + inside() + here()); return 0; }
