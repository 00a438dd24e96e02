gcc -c *.c && gcc -static $B prog.o f.o g.o -Wl,--wrap=f -Wl,--wrap,g -Wl,-wrap,h -o prog
