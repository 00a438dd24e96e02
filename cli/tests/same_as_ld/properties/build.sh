gcc -fcf-protection -c main.c && gcc -fcf-protection=none -c none.c && ar rcs libn.a none.o
gcc -static -nostdlib $B main.o -o whole
gcc -static -nostdlib $B main.o -Wl,-z,x86-64-v2 -Wl,-z,ibt -o level
gcc -static -nostdlib $B main.o -Wl,--whole-archive libn.a -Wl,--no-whole-archive -o less
gcc -static -nostdlib $B none.o main.o -Wl,-z,shstk -Wl,--unique=.none -o shstk
cat > prog <<'END'
#!/bin/sh
for file in whole level less shstk; do
  echo $file
  readelf -nW $file | grep -o 'x86 [A-Za-z]* *[A-Za-z]*:.*'
  readelf -lW $file | awk '$1 == "NOTE" || $1 == "GNU_PROPERTY" {print $1, $NF}' | sort -u
done
END
chmod +x prog
