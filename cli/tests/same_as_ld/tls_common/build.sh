gcc -O0 -fcommon -c prog.c && gcc -static $B prog.o -o prog
