#!/bin/sh
# Builds the guests that tests, demo and bench link: libraries, programs as objects, and each
# program linked by the system's ld for comparison.
#
#   build.sh DIR
#
# leaves in DIR: libz.a libsqlite3.a liblua.a libtouch8m.a, PROGRAM.o for each program,
# PROGRAM.libs (what to put behind it on the command line), pool-library.args (names and versions
# of the libraries, as a response file), reference/PROGRAM. What is up to date is not built again.
# CC (musl-gcc) and CFLAGS (-O2) may be set.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
: "${CC:=musl-gcc}" "${CFLAGS:=-O2}"
command -v "$CC" >/dev/null || {
    echo "$0: $CC is missing: apt install musl-tools" >&2
    exit 1
}
mkdir -p "$1/reference" "$1/objects"
cd "$1"

# One build at a time; whoever comes second finds everything done.
exec 9>lock
flock 9

stamp="$CC $CFLAGS $(cat "$here"/*.[ch] "$here"/sources/Cargo.lock "$here"/build.sh | cksum)"
if [ -f stamp ] && [ "$(cat stamp)" = "$stamp" ]; then
    exit 0
fi

metadata=$(cargo metadata --format-version 1 --locked --manifest-path "$here/sources/Cargo.toml")
source_of() {
    folder=$(printf '%s' "$metadata" | tr ',' '\n' |
        sed -n 's|.*"manifest_path":"\(.*/'"$1"'-[0-9][^/"]*\)/Cargo.toml".*|\1|p' | head -1)
    [ -d "$folder" ] || {
        echo "$0: the sources of $1 are missing: run cargo fetch in $here/sources" >&2
        exit 1
    }
    echo "$folder"
}
zlib=$(source_of libz-sys)/src/zlib
sqlite=$(source_of libsqlite3-sys)/sqlite3
lua_version=5.4.7
lua=$(source_of lua-src)/lua-$lua_version

# library NAME 'FLAGS' FILE...
library() {
    name=$1 flags=$2
    shift 2
    rm -rf "objects/$name" "lib$name.a"
    mkdir "objects/$name"
    for file; do
        # shellcheck disable=SC2086
        $CC $CFLAGS $flags -c "$file" -o "objects/$name/$(basename "$file" .c).o"
    done
    ar rcsD "lib$name.a" "objects/$name"/*.o
}

library z "-I$zlib -DHAVE_UNISTD_H -DHAVE_STDARG_H -w" "$zlib"/*.c
library lua "-I$lua -DLUA_USE_POSIX" $(ls "$lua"/*.c | grep -v -e '/lua\.c$' -e '/luac\.c$')
library touch8m "" "$here/libtouch8m.c"
library sqlite3 "-I$sqlite -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_LOAD_EXTENSION \
    -DSQLITE_DEFAULT_MEMSTATUS=0 -DSQLITE_TEMP_STORE=3 -DSQLITE_ENABLE_FTS5 \
    -DSQLITE_ENABLE_RTREE" "$sqlite/sqlite3.c"

# program NAME 'FLAGS' 'LIBRARIES'
program() {
    # shellcheck disable=SC2086
    $CC $CFLAGS $2 -c "$here/$1.c" -o "$1.o"
    echo "$3" >"$1.libs"
    # shellcheck disable=SC2086
    $CC -static "$1.o" -L. $3 -o "reference/$1"
}

program hello "" ""
program zlib-roundtrip "-I$zlib" "-lz"
program sqlite-workload "-I$sqlite" "-lsqlite3"
program lua-script "-I$lua" "-llua -lm"
program touch8m "" "-ltouch8m"
program memory-calls "" ""
program clock-read "" ""
program text-write "-I$zlib" "-lz"

version() { sed -n "s/^#define[ \t]*$2[ \t]*\"\(.*\)\"/\1/p" "$1"; }
# musl's dynamic loader is its C library, and says which it is.
musl=$(/lib/ld-musl-x86_64.so.1 2>&1 | sed -n 's/^Version //p' || true)
{
    if [ -n "$musl" ]; then
        echo "--pool-library -lc=musl@$musl"
    fi
    echo "--pool-library -lz=zlib@$(version "$zlib/zlib.h" ZLIB_VERSION)"
    echo "--pool-library -lsqlite3=sqlite@$(version "$sqlite/sqlite3.h" SQLITE_VERSION)"
    echo "--pool-library -llua=lua@$lua_version"
    echo "--pool-library -ltouch8m=touch8m@1"
} >pool-library.args
echo "$stamp" >stamp
