# A script says where frames begin, which libraries have for themselves.
gcc -O2 -c prog.c && gcc -static $B prog.o -Wl,-T,frames.ld -o prog
