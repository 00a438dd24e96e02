# A member that is a shared library, and one that is no object, which are to be in the program.
gcc -c main.c
gcc -shared -fPIC -x c /dev/null -o libshared.so
ar rcs libother.a libshared.so main.c
gcc -static $B main.o -Wl,--whole-archive libother.a -Wl,--no-whole-archive -o prog
