# An object for another machine, whoever names it a library.
gcc -c main.c
as --32 -o other.o < /dev/null
gcc -static $B ${B:+-Wl,--pool-library=other.o=other@1} main.o other.o -o prog
