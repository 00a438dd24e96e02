gcc -O0 -ffunction-sections -fdata-sections -c prog.c missing.c
ar rcs libm1.a missing.o
gcc -static $B -Wl,--gc-sections prog.o -o prog
if gcc -static $B prog.o -o refused; then exit 1; fi
if gcc -static $B -Wl,--gc-sections,--no-gc-sections prog.o -o refused; then exit 1; fi
if gcc -static $B -Wl,--gc-sections -Wl,-u,kept_by_name prog.o -o refused; then exit 1; fi
gcc -static $B -Wl,--gc-sections -Wl,-u,kept_by_name prog.o libm1.a -o prog
