gcc -ffunction-sections -fdata-sections -c *.c
ar rcs libx.a lib.o
gcc -static $B -Wl,--gc-sections prog.o libx.a -o prog
if gcc -static $B prog.o libx.a -o refused; then exit 1; fi
