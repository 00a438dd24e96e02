# ld refuses it: the one takes the other's thread-local variable for one that has an address.
gcc -c -fno-pie main.c
gcc -c -fno-pie variable.c
ar rcs libvariable.a variable.o
gcc -static -no-pie $B main.o libvariable.a -o prog
