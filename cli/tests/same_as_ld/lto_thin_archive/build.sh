gcc -O2 -flto -c *.c && gcc-ar rcsT libx.a a.o b.o && gcc -O2 -flto -static $B prog.o libx.a -o prog
