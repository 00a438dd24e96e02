gcc -O1 -static $B prog.c -Wl,-z,norelro -o prog
