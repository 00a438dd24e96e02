gcc -fcommon -c d.c main.c; ar rcs libd.a d.o; gcc -static $B main.o libd.a -o prog
