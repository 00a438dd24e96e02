gcc -w -fno-builtin -fcommon -c main.c; gcc -static $B main.o -o prog
