gcc -c *.c && ar rcs libx.a one.o && ar rcs liby.a two.o && gcc -static $B prog.o -Wl,--defsym=inner=replacement -Wl,--defsym=LIMIT=100 liby.a libx.a -o prog
