# ld refuses it: behind the address of a thread-local variable stands the call of nothing.
gcc -c main.c
as get.s -o get.o
gcc -static $B main.o get.o -o prog
