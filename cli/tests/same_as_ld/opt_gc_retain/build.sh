gcc -w -ffunction-sections -c *.c && gcc -static $B -Wl,--gc-sections first.o prog.o middle.o zlast.o -o prog
