# Scripts align where the template of thread-local variables begins: one that says what is in it, and one that is inserted
# before it, which without -z norelro aligns nothing.
gcc -O2 -c prog.c
gcc -static $B prog.o -Wl,-T,named.ld -o named
gcc -static $B prog.o -Wl,-T,before.ld,-z,norelro -o before
printf '#!/bin/sh\n./named && ./before\n' >prog
chmod +x prog
