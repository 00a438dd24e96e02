//! What somebody puts in place of a store under a mount: another state of it, or another store.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use common::{Pool, cannot_mount, names, run};
use pool_store::{Store, StoreOptions};
use rustix::fs::{AtFlags, StatxFlags, statx};

fn open(pool: &Pool) -> Store {
    Store::open(&pool.store_path(), StoreOptions::default()).unwrap()
}

/// To be read past the kernel's cache, which may have the right bytes.
fn open_directly(path: &Path) -> File {
    let mut options = File::options();
    let direct = options.read(true).custom_flags(libc::O_DIRECT);
    direct.open(path).unwrap()
}

fn read_all(file: &File, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// What the mount has to show as segments: the bytes of each.
fn segments(pool: &Pool) -> Vec<(String, Vec<u8>)> {
    let directory = pool.store_path().join("segments");
    let read = |id: String| {
        let bytes = fs::read(directory.join(format!("{id}.seg"))).unwrap();
        (id, bytes)
    };
    let names = names(&pool.path("segments")).into_iter();
    names.map(read).collect()
}

/// Images of as many pages each, so that the one and the other state have something else in the same slots, after as many
/// commits.
fn replace(options: &str) {
    if cannot_mount() {
        return;
    }
    let mut pool = Pool::new();
    let beside = |name: &str| pool.directory.path().join(name);
    let (older, newer) = (beside("older"), beside("newer"));
    pool.add_image("both:t", 1, None);
    pool.store = None;
    let copied = run(Command::new("cp")
        .arg("-a")
        .arg(pool.store_path())
        .arg(&older));
    assert!(copied.status.success());
    pool.store = Some(open(&pool));
    let gone = pool.add_image("gone:t", 2, None);

    let _mount = pool.mount_with(options);
    assert_eq!(names(&pool.path("images")), ["both", "gone"]);
    let open_object = open_directly(&pool.path("images/gone/t/image.elf"));
    let mut open_segments = Vec::new();
    for (id, bytes) in segments(&pool) {
        let file = File::open(pool.path("segments").join(&id)).unwrap();
        assert!(read_all(&file, bytes.len()) == bytes);
        open_segments.push((file, bytes));
    }

    pool.store = None;
    fs::rename(pool.store_path(), &newer).unwrap();
    fs::rename(&older, pool.store_path()).unwrap();
    pool.store = Some(open(&pool));
    let new = pool.add_image("new:t", 3, None);

    assert_eq!(names(&pool.path("images")), ["both", "new"]);
    assert!(fs::read(pool.path("images/new/t/image.elf")).unwrap() == new.elf);
    for (id, bytes) in segments(&pool) {
        assert!(
            fs::read(pool.path("segments").join(&id)).unwrap() == bytes,
            "{id}"
        );
    }
    // What is open is what it was.
    assert!(read_all(&open_object, gone.elf.len()) == gone.elf);
    for (file, bytes) in &open_segments {
        assert!(read_all(file, bytes.len()) == *bytes);
        let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::ESTALE));
    }
}

#[test]
fn another_store_is_an_error_until_it_is_gone_and_what_was_open_stays() {
    if cannot_mount() {
        return;
    }
    let mut pool = Pool::new();
    let image = pool.add_image("first:t", 1, None);
    let _mount = pool.mount();
    let open_object = open_directly(&pool.path("images/first/t/image.elf"));
    pool.store = None;
    let (there, aside) = (pool.store_path(), pool.directory.path().join("aside"));
    fs::rename(&there, &aside).unwrap();
    let options = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    pool.store = Some(Store::open(&there, options).unwrap());
    pool.add_image("other:t", 2, None);

    let listed = fs::read_dir(pool.path("images"));
    assert_eq!(listed.unwrap_err().raw_os_error(), Some(libc::EIO));
    // Asked of the program, whatever the kernel remembers.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let found = statx(&open_object, "", flags, StatxFlags::SIZE).unwrap();
    assert_eq!(found.stx_size, image.elf.len() as u64);
    assert!(read_all(&open_object, image.elf.len()) == image.elf);

    pool.store = None;
    fs::remove_dir_all(&there).unwrap();
    fs::rename(&aside, &there).unwrap();
    assert_eq!(names(&pool.path("images")), ["first"]);
    assert!(fs::read(pool.path("images/first/t/image.elf")).unwrap() == image.elf);
}

#[test]
fn what_is_put_in_place_of_a_store_is_shown_and_what_was_open_stays() {
    replace("ro");
}

#[test]
fn the_same_without_passthrough() {
    replace("nopassthrough");
}
