# What building, checking and listing the programs have in common. Sourced by bash.
#
# A program is described once, by apps/programs/NAME:
#
#   what=...          one line for the table
#   source=...        debian:PACKAGE (upstream's archive, by apt-get source), archive:lib.a (Debian's
#                     static archive), crate:NAME (C sources inside a crate) or here (this folder)
#   libraries=...     what becomes a library of the pool: SPEC=NAME@VERSION, as --pool-library takes it
#   checked_by=...    one line for the table
#   build             makes "$out", in an empty directory, "$sources" being the unpacked source
#   check             runs it by `run` or `serve` and fails unless it did its work
#
# and optionally `packages` (Debian packages that the build or the check needs), `memory` (64M),
# `network` (none or host) and `quick=yes` (part of make test).

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${POOL_APPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/poolfs/apps}
binaries=${CARGO_TARGET_DIR:-$here/../target}/release
jobs=$(nproc)

glibc_version() { ldd --version | sed -n '1s/.* //p'; }

# Leaves the description of program $1 in variables and functions.
describe() {
    what='' source='' libraries='' checked_by='' packages='' memory=64M network=none quick=no
    name=$1
    # shellcheck disable=SC1090
    . "$here/programs/$name"
    out=$cache/linked/$name
}

programs() { ls "$here/programs"; }

fail() {
    echo "$*" >&2
    exit 1
}
