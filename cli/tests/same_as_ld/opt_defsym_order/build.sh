gcc -c *.c
ar rcs libfoo.a foo.o
ar rcs libbar.a bar.o
n=0
for line in 'bar.o -Wl,--defsym=foo=bar prog.o libfoo.a' 'prog.o -Wl,--defsym=foo=bar libfoo.a bar.o' '-Wl,--defsym=foo=bar prog.o libfoo.a libbar.a' \
    'prog.o libfoo.a bar.o -Wl,--defsym=foo=bar' 'prog.o foo.o bar.o -Wl,--defsym=foo=bar' 'prog.o -Wl,--defsym=foo=bar foo.o -Wl,--start-group libfoo.a libbar.a -Wl,--end-group'; do
    n=$((n + 1))
    gcc -static $B $line -o "prog$n"
done
printf '#!/bin/sh\nfor n in 1 2 3 4 5 6; do ./prog$n; done\n' > prog
chmod +x prog
