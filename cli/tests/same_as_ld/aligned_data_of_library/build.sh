gcc -w -fcommon -c lib.c other.c prog.c && ar rcs liba.a lib.o && ar rcs libb.a other.o && gcc -static $B prog.o liba.a libb.a -o prog
