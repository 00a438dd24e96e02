# What configure scripts and build systems ask a linker: the answers, as they look at them, are what the program prints.
echo 'int main(void) { return 0; }' > m.c && gcc -c m.c
LD=ld; [ -z "$B" ] || LD=$LDDIR/ld
{
    echo "version $($LD --version | head -n 1 | sed 's/(.*)//; s/pool.*//')"
    echo "v $($LD -v < /dev/null | sed 's/(.*)//')"
    $LD -V | sed '1d'
    gcc $B -static m.o -Wl,--version 2>&1 | grep -o '^GNU ld'
    gcc $B -static m.o -o m -Wl,-v 2>&1 | grep -o '^GNU ld'
    ./m && echo linked
    gcc $B -Wl,--help | grep -e ': supported targets:.* elf' -e 'supported emulations' -e '--no-whole-archive' -e '--dependency-file'
    $LD --print-sysroot
    $LD --print-output-format
    $LD --verbose | grep SEARCH_DIR
    $LD --target-help | head -n 3
    gcc $B -static m.o -o m -Wl,--dependency-file=m.d
    sed -e 's,[^ ]*/,,' m.d | sort -u
} > said 2>&1
printf '#!/bin/sh\ncat said\n' > prog && chmod +x prog
