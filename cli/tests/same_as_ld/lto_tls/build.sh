gcc -O2 -flto -c prog.c other.c && gcc -O2 -fPIC -c plain.c && gcc -O2 -flto -static $B prog.o plain.o other.o -o prog
