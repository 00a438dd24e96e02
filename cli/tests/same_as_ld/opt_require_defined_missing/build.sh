gcc -c *.c && gcc -static $B prog.o -Wl,-u,nowhere -o prog && gcc -static $B prog.o -Wl,--require-defined=nowhere -o prog
