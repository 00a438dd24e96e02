gcc -O1 -c *.c && ar rcs libplug.a core.o cpu.o gpu.o && gcc -static $B prog.o libplug.a -o prog
