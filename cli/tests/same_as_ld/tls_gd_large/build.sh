gcc -O2 -fPIC -mcmodel=large -ftls-model=global-dynamic -c lib.c prog.c && gcc -static $B prog.o lib.o -o prog
