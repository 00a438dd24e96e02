gcc -c prog.c used.c unused.c && ar rcs libl.a used.o unused.o && gcc -static $B prog.o libl.a -o real
gcc -static $B prog.o libl.a -Wl,-x -o without
gcc -static $B prog.o libl.a -Wl,-z,stack-size=0x900000 -o stack
cat > prog <<'END'
#!/bin/sh
for symbol in used hidden unused of_program _end __bss_start _edata; do
  echo $symbol $(readelf -sW real | awk '{print $8}' | grep -cx $symbol) $(readelf -sW without | awk '{print $8}' | grep -cx $symbol)
done
readelf -lW stack | awk '$1 == "GNU_STACK" {print $6, $7}'
./real
END
chmod +x prog
