void *next;
__asm__(".text\n.globl adds\n.type adds, @function\nadds: add $100, %rax\nadd $1, %rax\nret\n");
