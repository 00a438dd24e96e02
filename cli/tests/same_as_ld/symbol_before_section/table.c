/* A table that is indexed from 100 on. */
__asm__(".section .rodata.table, \"a\"\n.balign 16\ntable: .long 10, 11, 12\n.globl above\n.set above, table - 400\n"
        ".text\n.globl get\n.type get, @function\nget: mov above(,%rdi,4), %eax\nret\n");
