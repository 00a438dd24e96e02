echo 'int seven(void) { return 7; }' > real.c
gcc -c real.c prog.c
printf '.globl big\n.section .data\n.balign 8192\nbig: .quad 1\n' | as -o big.o -
ar rcs libodd.a real.o big.o
gcc -static $B prog.o libodd.a -o prog
