gcc -c *.c && ar rcs libabc.a a.o b.o c.o && gcc ${B:+-Wl,--pool-library=libabc.a=abc@1} $B prog.o libabc.a -o prog
