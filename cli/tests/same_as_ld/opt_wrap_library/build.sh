gcc -O2 -c *.c
ar rcs libf.a f.o
ar rcs libg.a g.o
ar rcs libw.a w.o
ar rcs liball.a f.o g.o w.o
gcc -static $B prog.o libg.a libf.a libw.a -Wl,--wrap=f,--wrap=g,--wrap=h -o prog1
gcc -static $B prog.o -Wl,--start-group libw.a libf.a libg.a -Wl,--end-group -Wl,--wrap=f,--wrap=g,--wrap=h,--undefined=__wrap_h -o prog2
gcc -static $B prog.o liball.a -Wl,--wrap=f -Wl,--wrap=g -o prog3
printf '#!/bin/sh\nfor n in 1 2 3; do ./prog$n; done\n' > prog
chmod +x prog
