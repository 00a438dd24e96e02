gcc -c -fno-pie main.c
gcc -static -no-pie $B main.o -o prog
