gcc -O2 -flto -c *.c && gcc -O2 -flto -static $B prog.o malloc.o -lm -o prog
