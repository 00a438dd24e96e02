gcc -O2 -flto -c prog.c && gcc -O2 -flto -static $B prog.o -o prog
