gcc -fcommon -w -c prog.c && gcc -static $B prog.o -o prog
