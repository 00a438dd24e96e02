musl-gcc -O0 -c prog.c && musl-gcc -static $B prog.o -Wl,-z,stack-size=1048576 -o prog
