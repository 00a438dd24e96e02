gcc -fno-builtin -w -c prog.c && gcc -static $B prog.o -Wl,--wrap=malloc,--wrap=free,--wrap=strcmp -o prog && ! grep -q nothing prog
