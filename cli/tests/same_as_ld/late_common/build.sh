gcc -fcommon -c d.c main.c; ar rcs libd.a d.o; gcc -static $B libd.a main.o -o prog
