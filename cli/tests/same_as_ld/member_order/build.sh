# Each member needs one that stands before it in its archive, or in the archive before: constructors run, sections of a name
# lie and pieces of .init follow in the order in which members are needed.
for i in 1 2 3; do gcc -c -DN=$i -DNEXT=$((i - 1)) member.c -o $i.o; done
gcc -c main.c
ar rcs libodd.a 1.o 3.o
ar rcs libeven.a 2.o
gcc -static $B main.o -Wl,--start-group libodd.a libeven.a -Wl,--end-group -o prog
