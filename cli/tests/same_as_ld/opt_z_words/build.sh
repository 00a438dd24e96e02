gcc -c *.c && gcc -static $B prog.o lib.o -Wl,-z,now -Wl,-z,relro -Wl,-z,noseparate-code -Wl,-z,no-such-word -Wl,-z,cet-report=warning -o prog
