gcc -c *.c && ar rcs libabc.a a.o b.o c.o && gcc -fPIC -shared $B a.c b.c c.c -o libabc.so && gcc $B prog.o -L. -Wl,-Bstatic -labc -Wl,-Bdynamic -o prog && rm libabc.so
