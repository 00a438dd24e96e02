for u in a b;do sed "s/FN/f$u/g" a.s|as -o $u.o -;done;gcc -w -c main.c;ar rcs liba.a a.o;ar rcs libb.a b.o;gcc -static $B main.o liba.a libb.a -o prog
