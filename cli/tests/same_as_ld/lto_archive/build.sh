gcc -O2 -flto -c used.c unused.c ctor.c prog.c && gcc -O2 -c plain.c && gcc-ar rcs libx.a unused.o used.o plain.o && gcc-ar rcs libctor.a ctor.o &&
gcc-ar rcs libtwin.a used.o && gcc -O2 -flto -static $B prog.o libx.a libtwin.a -Wl,--whole-archive libctor.a -Wl,--no-whole-archive -o prog
