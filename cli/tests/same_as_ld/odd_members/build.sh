echo 'int seven(void) { return 7; }' > real.c
gcc -c real.c prog.c
printf 'How to rebuild this library: run make.\n' > README
: > empty.o
printf '.globl other\nother: ret\n' | as --32 -o other32.o -
ar rcs libodd.a real.o README empty.o other32.o 2>/dev/null
gcc -static $B prog.o libodd.a -o prog
