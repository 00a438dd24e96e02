# The shape of a Unikraft build for Linux: a library is one object, and scripts gather tables of all of them.
. ./parts.sh
compile -DMOUNTED=5 app.c -o app.o
part appfixture main app.o
gcc -nostdlib -Wl,--build-id=none -no-pie -Wl,-e,_libplat_start $B libplat.o appfixture.o libboot.o libfs.o libram.o libuklibid.o \
	-Wl,--start-group -Wl,--end-group -Wl,-T,bootinfo.lds -Wl,-T,platform.lds -Wl,-T,tables.ld -o prog
