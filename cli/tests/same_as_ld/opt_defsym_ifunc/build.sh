gcc -c prog.c && gcc -static $B prog.o -Wl,--defsym=also=chosen,--defsym=length=strlen -o prog
