#include <stdio.h>
int outside(int), alias(int);
__asm__(".globl in_asm\nin_asm: mov $77, %eax\nret");
int in_asm(void);
int main(void) { printf("%d %d %d\n", outside(1), alias(2), in_asm()); return 0; }
