gcc -O2 -c prog.c && gcc -static $B prog.o -Wl,-z,max-page-size=0x10000 -o prog
