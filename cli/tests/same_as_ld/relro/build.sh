gcc -O1 -static $B prog.c -o prog
