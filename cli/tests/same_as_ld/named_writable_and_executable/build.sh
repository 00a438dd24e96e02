printf '.section .both,"aw"\n.globl data\ndata: .long 3\n.section .note.GNU-stack,"",@progbits\n' | as -o data.o -
printf '.section .both,"ax"\n.globl code\ncode: mov $4,%%eax\n ret\n.section .note.GNU-stack,"",@progbits\n' | as -o code.o -
gcc -c prog.c && gcc -static $B prog.o data.o code.o -o prog
