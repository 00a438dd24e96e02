# A member for another machine, which is to be in the program.
gcc -c main.c
as --32 -o other.o < /dev/null
ar rcs libother.a other.o
gcc -static $B main.o -Wl,--whole-archive libother.a -Wl,--no-whole-archive -o prog
