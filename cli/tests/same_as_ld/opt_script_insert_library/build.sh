gcc -O2 -c prog.c member.c && ar rcs libm1.a member.o && gcc -static $B prog.o libm1.a -Wl,-T,tables.ld -o prog
