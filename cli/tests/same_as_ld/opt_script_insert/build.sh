gcc -O2 -ffunction-sections -c prog.c first.c second.c member.c && ar rcs libm1.a member.o &&
gcc -static $B second.o prog.o first.o libm1.a -L. -Wl,--gc-sections,-T,tables.ld -o prog
