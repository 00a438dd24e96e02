gcc -c *.c && ar rcs libx.a lib.o && gcc -static $B prog.o -Wl,--require-defined=plugin_sym libx.a -o prog
