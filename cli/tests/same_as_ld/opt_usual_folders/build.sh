gcc -c *.c
LD=ld; [ -z "$B" ] || LD=$LDDIR/ld
crt() { gcc -print-file-name=$1; }
$LD -static -o prog $(crt crt1.o) $(crt crti.o) $(crt crtbeginT.o) prog.o a.o b.o c.o -L"$(dirname "$(crt libgcc.a)")" \
  --start-group -lgcc -lgcc_eh -lc --end-group $(crt crtend.o) $(crt crtn.o)
