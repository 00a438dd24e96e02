gcc -c *.c
ar rcs libx.a lib.o
gcc -fPIC -c lib.c
ar rcs liby.a lib.o
n=0
for line in 'libx.a -Wl,--unresolved-symbols=ignore-all' 'lib.o -Wl,--unresolved-symbols=ignore-in-object-files' 'libx.a -Wl,-z,undefs' 'liby.a -Wl,-z,undefs' \
    'liby.a -Wl,--warn-unresolved-symbols' 'libx.a -Wl,--ignore-unresolved-symbol=nowhere,--ignore-unresolved-symbol=nothing,--ignore-unresolved-symbol=gone'; do
    n=$((n + 1))
    gcc -no-pie -static $B prog.o $line -o "prog$n"
done
for line in '' '-Wl,--unresolved-symbols=ignore-in-shared-libs' '-Wl,-z,undefs,-z,defs' '-Wl,--ignore-unresolved-symbol=nothing'; do
    if gcc -static $B prog.o libx.a $line -o refused; then exit 1; fi
done
printf '#!/bin/sh\nfor n in 1 2 3 4 5 6; do ./prog$n; done\n' > prog
chmod +x prog
