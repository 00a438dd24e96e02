for n in one two; do
    echo "int $n = ${#n} - ${#n} + $([ $n = one ] && echo 1 || echo 2); static const char *const p __attribute__((section(\"parts\"), used)) = \"$n\";" > $n.c
    gcc -c $n.c && ar rcs lib$n.a $n.o
done
gcc -c prog.c && gcc -static $B prog.o libone.a libtwo.a -o prog
