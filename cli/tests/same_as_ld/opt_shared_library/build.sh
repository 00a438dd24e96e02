gcc -fPIC -c *.c && gcc $B -shared a.o b.o c.o -o libabc.so && gcc $B prog.o -L. -labc -Wl,-rpath,. -o prog
