gcc -O1 -c prog.c table.s && gcc -static $B prog.o table.o -o prog
