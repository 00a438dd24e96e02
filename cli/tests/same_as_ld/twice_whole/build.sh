gcc -c c.c main.c; ar rcs libc1.a c.o; gcc -static $B main.o -Wl,--whole-archive libc1.a libc1.a -Wl,--no-whole-archive -o prog
