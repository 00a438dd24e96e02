#include <stdio.h>
/* In code such an offset is one from the thread pointer; in data, one in the block of the program's variables. */
extern const int offset;
extern const long long_offset;
__thread int first = 1;
__thread int table[10] = {2};
__asm__(".section .rodata\n.globl offset, long_offset\noffset: .long table@dtpoff\n.balign 8\nlong_offset: .quad table@dtpoff\n.text\n");
int main(void) {
    printf("%d %ld %d\n", offset, long_offset, first + table[0]);
    return 0;
}
