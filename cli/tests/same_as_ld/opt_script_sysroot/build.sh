mkdir -p root/lib bin scripts && gcc -c *.c && mv forced.o inside.o root/lib/ &&
echo 'INPUT(=/lib/forced.o here.o)' > scripts/outside.script && echo 'INPUT(/lib/inside.o)' > root/inside.script &&
gcc -static $B prog.o scripts/outside.script root/inside.script -Wl,--sysroot="$PWD/bin/../root" -o prog
