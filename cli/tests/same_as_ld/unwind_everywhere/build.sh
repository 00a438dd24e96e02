# At every instruction of the library an unwinder finds its way back to main: where another library's data is loaded, stored
# and added to, and where its functions are called.
gcc -O1 -c main.c
gcc -O1 -fno-pie -c library.c
gcc -O1 -c other.c
ar rcs liblibrary.a library.o
ar rcs libother.a other.o
gcc -static $B main.o liblibrary.a libother.a -o prog
