for options in "-O2" "-O2 -fPIC" "-O0 -fpie"; do
    gcc $options -c *.c
    rm -f libx.a liby.a
    ar rcs libx.a lib.o data.o
    ar rcs liby.a lib.o
    ar rcs libz.a data.o
    gcc -static $B prog.o libx.a -Wl,--wrap=value,--wrap=mine -o "prog1${options// /}"
    gcc -static $B prog.o liby.a libz.a -Wl,--wrap=value,--wrap=mine -o "prog2${options// /}"
done
printf '#!/bin/sh\nfor p in prog?-*; do ./$p; done\n' > prog
chmod +x prog
