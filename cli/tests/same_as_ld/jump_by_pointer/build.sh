# A jump through another library's pointer, to a label of the same function or to another function: all registers are in use.
# And calls that pass over the first instructions of what they call.
gcc -O2 -c *.c
gcc -c code.s
ar rcs libcode.a code.o
ar rcs libother.a other.o
gcc -static $B prog.o libcode.a libother.a -o prog
