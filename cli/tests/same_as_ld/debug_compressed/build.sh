gcc -g -gz=zlib -c lib.c && gcc -g -gz=zlib-gnu -c old.c
gcc -g -gz=none -Wa,--compress-debug-sections=zstd -c new.c || gcc -g -c new.c
gcc -g -gz -c prog.c && ar rcs liball.a lib.o old.o new.o
gcc -static $B prog.o liball.a -Wl,--compress-debug-sections=none -o real
gcc -static $B prog.o liball.a -Wl,--compress-debug-sections=zlib -o real_zlib
readelf -SW real_zlib | grep -q 'debug_info.*C' || exit 9
cat > prog <<'END'
#!/bin/sh
for real in ./real ./real_zlib; do
  $real
  gdb -nx -batch -ex 'ptype struct one' -ex 'ptype struct two' -ex 'ptype struct three' -ex 'info line main' $real 2>&1 |
    sed 's/0x[0-9a-f]*//g'
done
END
chmod +x prog
