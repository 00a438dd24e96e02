gcc -O2 -g -c prog.c && gcc -static $B prog.o -o real
cat > prog <<'END'
#!/bin/sh
gdb -nx -batch -ex run -ex bt ./real 2>&1 | grep -o '^#.*' | grep -o ' in [a-z_.]* '
END
chmod +x prog
