echo 'int bottom(void) { return 3; } ' > bottom.c
echo 'int bottom(void); int middle(void) { return bottom() + 20; }' > middle.c
echo 'int middle(void); int (*address(void))(void) { return middle; } int top(void) { return middle() + 1; }' > top.c
gcc -O1 -c *.c && ar rcs libstack.a bottom.o middle.o top.o && gcc -static $B prog.o libstack.a -o prog
