gcc -O0 -ffunction-sections -fdata-sections -c prog.c
gcc -static $B -Wl,--gc-sections,--print-gc-sections prog.o -o p 2>&1 | grep "in file 'prog.o'" | sed 's/.*: removing/removing/' > said
gcc -static $B -Wl,--gc-sections,--print-gc-sections,--no-print-gc-sections prog.o -o p 2>&1 | grep -c removing >> said || true
printf '#!/bin/sh\ncat said\n' > prog
chmod +x prog
