# As Unikraft builds: each library one object, partially linked by the system's linker, with what others may use.
compile() {
	gcc -O2 -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables -ftls-model=local-exec -c "$@"
}
part() {
	name=$1 keeps=$2
	shift 2
	gcc -nostdlib -no-pie -Wl,-r -Wl,-d -Wl,--build-id=none "$@" -o $name.ld.o
	objcopy $(for symbol in $keeps; do echo --keep-global-symbol=$symbol; done) $name.ld.o $name.o
}
parts() {
	compile start.S plat.c boot.c fs.c ram.c dev.c ids.c
	part libplat "_libplat_start say number leave" start.o plat.o
	part libboot entry boot.o
	part libfs "mount_all mounted depth uk_event_tick" fs.o
	part libram "" ram.o dev.o
	part libuklibid "$(nm -g ids.o | sed 's/.* //')" ids.o
	compile "$@" app.c
	part appfixture main app.o
}
