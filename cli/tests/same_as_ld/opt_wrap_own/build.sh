gcc -fno-builtin -O2 -c *.c
ar rcs libx.a lib.o other.o
gcc -static $B prog.o libx.a -Wl,--wrap=hook -o prog
