gcc -O1 -fcf-protection=none -c prog.c && gcc -static -nostdlib $B prog.o -o prog
