# Of two weak definitions and a tentative one, all of one archive and all in the program, the tentative one counts.
for i in 1 2 3; do gcc -c -fPIC -fcommon -DN=$i member.c -o $i.o; done
gcc -c main.c
ar rcs libmember.a 1.o 2.o 3.o
gcc -static $B main.o libmember.a -o prog
