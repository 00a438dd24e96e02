# The shape of a Unikraft build for Linux: a library is one object, and scripts gather tables of all of them.
. ./parts.sh
parts -DMOUNTED=5
gcc -nostdlib -Wl,--build-id=none -no-pie -Wl,-e,_libplat_start $B libplat.o appfixture.o libboot.o libfs.o libram.o libuklibid.o \
	-Wl,--start-group -Wl,--end-group -Wl,-T,bootinfo.lds -Wl,-T,platform.lds -Wl,-T,tables.ld -o prog
