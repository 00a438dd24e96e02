gcc -O2 -flto -c prog.c other.c && gcc -O2 -flto -static $B prog.o other.o -Wl,--wrap=outside,--defsym=alias=target,--gc-sections -Wl,-u,kept -g -o prog
