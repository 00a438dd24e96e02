gcc -c *.c && gcc $B -r -nostdlib a.o b.o -o ab.o && gcc $B -static prog.o ab.o c.o -o prog
