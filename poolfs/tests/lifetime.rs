//! Mounting, leases, deaths and mistakes.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Mount, POOLFS, Pool, cannot_mount, content, eventually, is_mounted, run, text};
use pool_core::digest::ObjectId;
use pool_store::{Store, StoreOptions};

#[test]
fn open_files_are_leases() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(1, 3 << 20);
    let library_id = pool.add_library("zlib@1.3", &library);
    pool.add_image("hello:v1", 7, Some(("zlib@1.3", &library)));
    let (_, manifest) = pool
        .store()
        .image(&"hello:v1".parse().unwrap())
        .unwrap()
        .unwrap();
    let _mount = pool.mount();
    let leased = |id: ObjectId| pool.store().object_is_leased(id).unwrap();
    let extent = pool
        .store()
        .object(library_id)
        .unwrap()
        .unwrap()
        .map
        .extents()[0];

    for path in ["images/hello/v1/map", "images/hello/v1/image.elf"] {
        assert!(manifest.objects().into_iter().all(|id| !leased(id)));
        let file = File::open(pool.path(path)).unwrap();
        let second = File::open(pool.path(path)).unwrap();
        assert!(manifest.objects().into_iter().all(leased), "{path}");
        assert!(pool.store().segment_is_leased(extent.segment).unwrap());
        drop(file);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(manifest.objects().into_iter().all(leased), "{path}");
        drop(second);
        eventually("the lease ends", || {
            manifest.objects().into_iter().all(|id| !leased(id))
        });
    }
    let content = File::open(pool.path("libs/zlib/1.3/content")).unwrap();
    assert!(leased(library_id));
    drop(content);
    eventually("the lease ends", || !leased(library_id));
    eventually("the segment's too", || {
        !pool.store().segment_is_leased(extent.segment).unwrap()
    });
    let segment = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
    assert!(pool.store().segment_is_leased(extent.segment).unwrap());
    drop(segment);
    eventually("the lease ends", || {
        !pool.store().segment_is_leased(extent.segment).unwrap()
    });
}

#[test]
fn a_low_soft_limit_of_descriptors_is_raised() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let mount = Mount(pool.mount_point());
    let mut daemon = Command::new("prlimit")
        .args(["--nofile=64:4000", "--", POOLFS])
        .arg(pool.store_path())
        .arg(pool.mount_point())
        .args(["-f", "-o", &format!("scratch={}", pool.scratch().display())])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is mounted", || is_mounted(&pool.mount_point()));
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    drop(mount);
    daemon.wait().unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = files.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["4000", "4000"]);
}

#[test]
fn a_killed_daemon_leaves_no_lease_and_mappings_go_on() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(1, 3 << 20);
    let id = pool.add_library("zlib@1.3", &library);
    let extent = pool.store().object(id).unwrap().unwrap().map.extents()[0];
    let (mut daemon, mount) = pool.mount_foreground();
    let _content = File::open(pool.path("libs/zlib/1.3/content")).unwrap();
    let segment = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
    assert!(pool.store().object_is_leased(id).unwrap());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(!pool.store().object_is_leased(id).unwrap());
    assert!(!pool.store().segment_is_leased(extent.segment).unwrap());
    // Passed through: the kernel goes on without us.
    let mut page = vec![0; 4096];
    segment
        .read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
    assert!(page == library[..4096]);
    // The mount is dead, which the next attempt says.
    let again = run(Command::new(POOLFS)
        .arg(pool.store_path())
        .arg(pool.mount_point()));
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("umount"),
        "{}",
        text(&again.stderr)
    );
    drop(mount);
    assert!(!is_mounted(&pool.mount_point()));
    let _mount = pool.mount();
    assert!(fs::read(pool.path("libs/zlib/1.3/content")).unwrap() == library);
    // While the old mount's segment is still open.
    let new = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
    new.read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
    segment
        .read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
}

#[test]
fn umount_and_sigterm_end_the_daemon_and_its_scratch() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", &content(1, 10_000));
    for way in ["umount", "fusermount3", "kill"] {
        let (mut daemon, _mount) = pool.mount_foreground();
        assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 1);
        let id = daemon.id().to_string();
        let output = match way {
            "umount" => run(Command::new(way).arg(pool.mount_point())),
            "fusermount3" => run(Command::new(way).arg("-u").arg(pool.mount_point())),
            _ => run(Command::new(way).args(["-TERM", &id])),
        };
        assert!(output.status.success(), "{way}");
        assert!(daemon.wait().unwrap().success(), "{way}");
        assert!(!is_mounted(&pool.mount_point()));
        assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 0, "{way}");
    }
}

#[test]
fn sigterm_leaves_open_files_usable_until_they_are_closed() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(1, 3 << 20);
    let id = pool.add_library("a@1", &library);
    let (mut daemon, _mount) = pool.mount_foreground();
    let file = File::open(pool.path("libs/a/1/content")).unwrap();
    run(Command::new("kill").args(["-TERM", &daemon.id().to_string()]));
    eventually("the mount leaves the tree", || {
        !is_mounted(&pool.mount_point())
    });
    // A new mount at the same place outlives the end of the old one.
    let _second = pool.mount();
    let mut all = Vec::new();
    (&file).read_to_end(&mut all).unwrap();
    assert!(all == library);
    assert!(pool.store().object_is_leased(id).unwrap());
    assert!(daemon.try_wait().unwrap().is_none());
    drop(file);
    assert!(daemon.wait().unwrap().success());
    assert!(!pool.store().object_is_leased(id).unwrap());
    assert!(is_mounted(&pool.mount_point()));
    assert!(fs::read(pool.path("libs/a/1/content")).unwrap() == library);
}

#[test]
fn the_writer_may_stop_and_start() {
    if cannot_mount() {
        return;
    }
    let mut pool = Pool::new();
    pool.add_library("a@1", b"one");
    pool.store = None;
    let _mount = pool.mount();
    assert_eq!(fs::read(pool.path("libs/a/1/content")).unwrap(), b"one");
    for nth in 2..6 {
        pool.store = Some(Store::open(&pool.store_path(), StoreOptions::default()).unwrap());
        let bytes = content(nth, 100_000);
        pool.add_library(&format!("a@{nth}"), &bytes);
        assert!(fs::read(pool.path(&format!("libs/a/{nth}/content"))).unwrap() == bytes);
        pool.store = None;
        assert!(fs::read(pool.path(&format!("libs/a/{nth}/content"))).unwrap() == bytes);
        assert_eq!(fs::read(pool.path("libs/a/1/content")).unwrap(), b"one");
    }
}

#[test]
fn mount_8_finds_the_program() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", b"one");
    let programs = pool.directory.path().join("bin");
    fs::create_dir(&programs).unwrap();
    symlink(POOLFS, programs.join("poolfs")).unwrap();
    let store = pool.store_path();
    let store = store.to_str().unwrap();
    // mount(8) clears the path, so the program must be in one of the shell's own directories. A
    // mount namespace has it there for this test alone.
    let script = "mount --bind \"$1\" /usr/local/sbin\n\
                  mount -t \"$2\" \"$3\" \"$4\" -o nofail,_netdev\n\
                  findmnt -no FSTYPE,SOURCE \"$4\"\n\
                  cat \"$4/libs/a/1/content\"\n\
                  poolfs \"$5\" \"$4\" 2>&1 || echo \" status $?\"\n\
                  umount \"$4\"";
    for (kind, source) in [
        ("fuse.poolfs", store.to_owned()),
        ("fuse", format!("poolfs#{store}")),
        ("fuse", format!("{POOLFS}#{store}")),
    ] {
        let output = run(Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-ec", script, "sh"])
            .arg(&programs)
            .args([kind, &source])
            .arg(pool.mount_point())
            .arg(store));
        assert!(output.status.success(), "{source}");
        let shown = text(&output.stdout);
        let mut fields = shown.split_whitespace();
        assert_eq!(fields.next(), Some("fuse.poolfs"), "{shown}");
        assert_eq!(fields.next(), Some(store), "{shown}");
        assert!(shown.contains("\none"), "{shown}");
        assert!(
            shown.contains("mounted at") && shown.contains("status 1"),
            "{shown}"
        );
    }
    // Installed as mount(8)'s own helper, with its flags.
    let helper = programs.join("mount.fuse.poolfs");
    symlink(POOLFS, &helper).unwrap();
    let call = |flags: &[&str]| {
        run(Command::new(&helper)
            .arg(store)
            .arg(pool.mount_point())
            .args(flags))
    };
    assert!(call(&["-f", "-n", "-v", "-o", "rw"]).status.success());
    assert!(!is_mounted(&pool.mount_point()));
    let _mount = Mount(pool.mount_point());
    assert!(call(&["-s", "-o", "rw,whatever"]).status.success());
    assert!(is_mounted(&pool.mount_point()));
}

#[test]
fn mistakes_are_explained() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let file = pool.directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let newer = pool.directory.path().join("newer");
    fs::create_dir(&newer).unwrap();
    let mut superblock = fs::read(pool.store_path().join("superblock")).unwrap();
    superblock[8] = 9;
    fs::write(newer.join("superblock"), &superblock).unwrap();
    let store = pool.store_path();
    let mount_point = pool.mount_point();
    let absent = pool.directory.path().join("absent");
    let empty = Path::new("/proc/self/fd");
    let cases: [(&[&Path], &[&str], i32, &str); 9] = [
        (&[empty, &mount_point], &[], 1, "is not a pool store"),
        (&[&file, &mount_point], &[], 1, "is not a pool store"),
        (&[&absent, &mount_point], &[], 1, "is not a pool store"),
        (&[&newer, &mount_point], &[], 1, "use a newer release"),
        (&[&store, &absent], &[], 1, "mkdir -p"),
        (&[&store, &file], &[], 1, "name a directory"),
        (
            &[&store, &mount_point],
            &["-o", "ro,bogus"],
            2,
            "unknown mount option",
        ),
        (&[&store], &[], 2, "MOUNTPOINT"),
        (
            &[&store, &mount_point],
            &["-o", "scratch=/absent"],
            1,
            "scratch=DIR",
        ),
    ];
    for (paths, options, code, message) in cases {
        let output = Command::new(POOLFS)
            .args(paths)
            .args(options)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(message), "{error}");
        assert!(!is_mounted(&mount_point));
    }
}

#[test]
fn without_passthrough_segments_are_read_and_never_stale() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let first = content(1, 3 << 20);
    let id = pool.add_library("a@1", &first);
    let extent = pool.store().object(id).unwrap().unwrap().map.extents()[0];
    let mounted = run(Command::new(POOLFS)
        .arg(pool.store_path())
        .arg(pool.mount_point())
        .args([
            "-o",
            &format!("nopassthrough,scratch={}", pool.scratch().display()),
        ]));
    let _mount = Mount(pool.mount_point());
    let warning = text(&mounted.stderr);
    assert!(mounted.status.success(), "{warning}");
    assert!(warning.contains("slower"), "{warning}");
    let read = |path: &str| fs::read(pool.path(path)).unwrap();
    let version: serde_json::Value = serde_json::from_slice(&read(".pool/version")).unwrap();
    assert_eq!(version["passthrough"], false);
    let segment = format!("segments/{}", extent.segment);
    let backing = pool.store_path().join(format!("{segment}.seg"));
    // Open, and its pages in the kernel's cache, all the while.
    let open = File::open(pool.path(&segment)).unwrap();
    assert!(read(&segment) == fs::read(&backing).unwrap());
    // The cache has the rest of the segment as zeros; this fills some of it.
    let second = content(2, 3 << 20);
    let id = pool.add_library("a@2", &second);
    let map = pool.store().object(id).unwrap().unwrap().map;
    assert_eq!(map.extents()[0].segment, extent.segment);
    assert!(read(&segment) == fs::read(&backing).unwrap());
    assert!(read(&segment) == fs::read(&backing).unwrap());
    assert!(read("libs/a/2/content") == second);
    let mut page = vec![0; 4096];
    open.read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
    assert!(page == first[..4096]);
}
