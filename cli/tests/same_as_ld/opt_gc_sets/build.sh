gcc -O1 -ffunction-sections -fdata-sections -c *.c
ar rcs libset.a lib.o entry.o entry2.o
n=0
for line in 'prog.o first.o lib.o entry.o entry2.o last.o' 'first.o prog.o libset.a last.o' 'prog.o first.o -Wl,--whole-archive libset.a -Wl,--no-whole-archive last.o' \
    'prog.o first.o lib.o entry.o entry2.o last.o -Wl,-z,start-stop-gc' 'first.o prog.o libset.a last.o -Wl,-z,start-stop-gc'; do
    n=$((n + 1))
    gcc -static $B -Wl,--gc-sections $line -o "prog$n"
done
printf '#!/bin/sh\nfor n in 1 2 3 4 5; do ./prog$n; done\n' > prog
chmod +x prog
