gcc -O2 -flto -c prog.c other.c && gcc -O2 -c plain.c && gcc -O2 -flto -static $B plain.o prog.o other.o -o prog
