echo 'int which(void) { return 1; }' > a.c
echo 'int which(void) { return 2; }' > b.c
echo 'int which(void); int user(void) { return which() * 10; }' > u.c
gcc -c *.c && ar rcs libfirst.a a.o && ar rcs libsecond.a u.o b.o && gcc -static $B prog.o libfirst.a libsecond.a -o prog
