gcc -c -fno-pie main.c
gcc -c -fno-pie table.c
ar rcs libtable.a table.o
gcc -static -no-pie $B main.o libtable.a -o prog
