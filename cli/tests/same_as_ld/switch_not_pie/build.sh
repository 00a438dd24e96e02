gcc -O2 -fno-pie -c lib.c
ar rcs libkind.a lib.o
gcc -O2 -fno-pie -c prog.c
gcc -static -no-pie $B prog.o libkind.a -o prog
