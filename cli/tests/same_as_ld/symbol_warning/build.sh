gcc -c prog.c lib.c && ar rcs libl.a lib.o
gcc -static $B prog.o libl.a -o prog 2>&1 | grep -o 'careful is not.*' > said
grep -q careful said
