gcc -O2 -fPIC -mcmodel=large -ftls-model=local-dynamic -c lib.c prog.c && gcc -static $B prog.o lib.o -o prog
