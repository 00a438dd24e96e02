//! Stores that the daemon may read and not write: on a filesystem that is mounted read-only, and
//! of another user.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{POOLFS, Pool, apart, cannot_mount, run, text};
use pool_tests::wait;

/// Runs a script in a mount namespace of its own; what it prints is what it read through a mount.
fn script(script: &str, pool: &Pool) -> String {
    let output = run(apart(script).arg(pool.directory.path()).arg(POOLFS));
    let messages = text(&output.stderr);
    assert!(output.status.success(), "{}: {messages}", output.status);
    text(&output.stdout)
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_store_on_a_read_only_filesystem_is_mounted() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    let before = common::names(&pool.store_path());
    let read = script(
        "cd \"$1\"; mkdir scratch; mount --bind store store; mount -o remount,ro,bind store\n\
         \"$2\" store mnt -o \"scratch=$1/scratch\" > /dev/null\n\
         cat mnt/libs/a/1/content; umount mnt",
        &pool,
    );
    assert_eq!(read, "one");
    assert_eq!(common::names(&pool.store_path()), before);
    wait::until("the scratch directory is gone", || {
        fs::read_dir(pool.scratch()).unwrap().next().is_none()
    });
}

#[test]
fn a_user_mounts_a_store_of_root() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    open_to_all(pool.directory.path());
    let read = script(
        "cd \"$1\"; cp \"$2\" poolfs; mkdir scratch; chown 65534:65534 mnt scratch\n\
         mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse\n\
         as_user() { setpriv --reuid 65534 --regid 65534 --clear-groups -- \"$@\"; }\n\
         as_user ./poolfs store mnt -o \"scratch=$1/scratch\" > /dev/null\n\
         as_user cat mnt/libs/a/1/content; umount mnt; umount -l /dev/fuse; rm fuse",
        &pool,
    );
    assert_eq!(read, "one");
    wait::until("the scratch directory is gone", || {
        fs::read_dir(pool.scratch()).unwrap().next().is_none()
    });
}
