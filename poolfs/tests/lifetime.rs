//! Mounting, leases, deaths and mistakes.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{POOLFS, Pool, apart, cannot_mount, content, is_mounted, run, text};
use pool_core::digest::ObjectId;
use pool_store::{Store, StoreOptions};
use pool_tests::keeper::Keeper;
use pool_tests::wait;
use rustix::fs::StatVfsMountFlags;

#[test]
fn open_files_are_leases() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(1, 3 << 20);
    let library_id = pool.add_library("zlib@1.3", &library);
    pool.add_image("hello:v1", 7, Some(("zlib@1.3", &library)));
    let other_id = pool.add_library("other@1", b"other");
    let (_, manifest) = pool
        .store()
        .image(&"hello:v1".parse().unwrap())
        .unwrap()
        .unwrap();
    // One thread serves one call after the other.
    let _mount = pool.mount_with("threads=1");
    let leased = |id: ObjectId| pool.store().object_is_leased(id).unwrap();
    let what_was_closed_is_served = || {
        drop(File::open(pool.path("libs/other/1/content")).unwrap());
        wait::until("the other file is closed", || !leased(other_id));
    };
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
        what_was_closed_is_served();
        assert!(manifest.objects().into_iter().all(leased), "{path}");
        drop(second);
        wait::until("the lease ends", || {
            manifest.objects().into_iter().all(|id| !leased(id))
        });
    }
    let content = File::open(pool.path("libs/zlib/1.3/content")).unwrap();
    assert!(leased(library_id));
    drop(content);
    wait::until("the lease ends", || !leased(library_id));
    wait::until("the segment's too", || {
        !pool.store().segment_is_leased(extent.segment).unwrap()
    });
    let segment = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
    assert!(pool.store().segment_is_leased(extent.segment).unwrap());
    drop(segment);
    wait::until("the lease ends", || {
        !pool.store().segment_is_leased(extent.segment).unwrap()
    });
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
    assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 1);
    let _mount = pool.mount();
    assert!(fs::read(pool.path("libs/zlib/1.3/content")).unwrap() == library);
    // What the dead one left is gone, what is there is the living one's.
    assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 1);
    // While the old mount's segment is still open.
    let new = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
    new.read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
    segment
        .read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
}

#[test]
fn umount_and_signals_end_the_daemon_and_its_scratch() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", &content(1, 10_000));
    for way in ["umount", "fusermount3", "-TERM", "-INT", "-HUP"] {
        let (mut daemon, _mount) = pool.mount_foreground();
        assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 1);
        let id = daemon.id().to_string();
        let output = match way {
            "umount" => run(Command::new(way).arg(pool.mount_point())),
            "fusermount3" => run(Command::new(way).arg("-u").arg(pool.mount_point())),
            signal => run(Command::new("kill").args([signal, &id])),
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
    wait::until("the mount leaves the tree", || {
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
fn a_second_sigterm_takes_no_other_mount_away() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", b"one");
    let (mut daemon, _mount) = pool.mount_foreground();
    let terminate = || {
        let id = daemon.id().to_string();
        assert!(
            run(Command::new("kill").args(["-TERM", &id]))
                .status
                .success()
        );
    };
    let open = File::open(pool.path("libs/a/1/content")).unwrap();
    terminate();
    wait::until("the mount leaves the tree", || {
        !is_mounted(&pool.mount_point())
    });
    let _second = pool.mount();
    terminate();
    // Taken by the time that the daemon ends, which waits for the file.
    drop(open);
    assert!(daemon.wait().unwrap().success());
    assert!(is_mounted(&pool.mount_point()));
    assert_eq!(fs::read(pool.path("libs/a/1/content")).unwrap(), b"one");
}

#[test]
fn an_aborted_connection_leaves_no_mount() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", b"one");
    let (mut daemon, _mount) = pool.mount_foreground();
    let control = pool.directory.path().join("fusectl");
    fs::create_dir(&control).unwrap();
    let mounted = run(Command::new("mount")
        .args(["-t", "fusectl", "none"])
        .arg(&control));
    assert!(mounted.status.success());
    let _control = Keeper::unmount(&control).unwrap();
    let device = fs::metadata(pool.mount_point()).unwrap().dev();
    // Connections are named by the filesystem's device number.
    let connection = rustix::fs::minor(device).to_string();
    fs::write(control.join(connection).join("abort"), "1").unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(!is_mounted(&pool.mount_point()));
    assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 0);
}

#[test]
fn a_store_that_is_deleted_under_the_mount_fails_and_unmounts() {
    if cannot_mount() {
        return;
    }
    let mut pool = Pool::new();
    pool.add_library("a@1", &content(1, 3 << 20));
    pool.store = None;
    let (mut daemon, _mount) = pool.mount_foreground();
    assert!(fs::metadata(pool.path("libs/a/1/content")).is_ok());
    fs::remove_dir_all(pool.store_path()).unwrap();
    assert!(fs::read(pool.path("libs/a/1/content")).is_err());
    assert!(fs::read(pool.path(".pool/version")).is_ok());
    let room = rustix::fs::statvfs(pool.mount_point());
    assert_eq!(room.map(|_| ()), Err(rustix::io::Errno::IO));
    assert!(daemon.try_wait().unwrap().is_none());
    let unmounted = run(Command::new("umount").arg(pool.mount_point()));
    assert!(unmounted.status.success());
    assert!(daemon.wait().unwrap().success());
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
fn a_mount_point_may_be_named_by_a_descriptor_of_the_caller() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    // Every number that the daemon's own descriptors could have.
    for number in 3..9 {
        let script = format!("exec \"$@\" /dev/fd/{number} {number}< \"$0\"");
        let _mount = pool.unmounted();
        let output = run(Command::new("sh")
            .args(["-ec", &script])
            .args([&pool.mount_point(), Path::new(POOLFS)])
            .args(["-o", &format!("scratch={}", pool.scratch().display())])
            .arg(pool.store_path()));
        assert!(output.status.success(), "{number}");
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
                  mount -o remount,ro \"$4\" 2>&1 || echo \" remount $?\"\n\
                  umount \"$4\"";
    for (kind, source) in [
        ("fuse.poolfs", store.to_owned()),
        ("fuse", format!("poolfs#{store}")),
        ("fuse", format!("{POOLFS}#{store}")),
    ] {
        let output = run(apart(script)
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
        assert!(
            shown.contains("cannot be remounted") && shown.contains("remount 32"),
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
    let _mount = pool.unmounted();
    // What it ends with is what mount(8) ends with.
    for (flags, code) in [
        (&["-o", "rw,whatever"][..], 1),
        (&["--whatever"], 1),
        (&["-o", "remount,ro"], 32),
        (&["-o", "scratch=/absent"], 32),
    ] {
        let refused = call(flags);
        assert_eq!(refused.status.code(), Some(code), "{flags:?}");
        assert!(!refused.stderr.is_empty(), "{flags:?}");
    }
    let sloppy = call(&["-s", "-o", "rw,whatever,noexec"]);
    assert!(sloppy.status.success());
    assert!(text(&sloppy.stderr).contains("rw is turned to ro"));
    assert!(is_mounted(&pool.mount_point()));
    let flags = rustix::fs::statvfs(pool.mount_point()).unwrap().f_flag;
    let expected = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOEXEC;
    assert!(flags.contains(expected), "{flags:?}");
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
    let scratch = format!("scratch={}", pool.scratch().display());
    let refused = format!("{scratch},remount,rw");
    let segments = store.join("segments");
    let parent = pool.directory.path();
    let scratch_inside = format!("scratch={}", mount_point.display());
    let cases: [(&[&Path], &[&str], i32, &str); 15] = [
        (&[&store, &store], &[], 1, "would hide"),
        (&[&store, parent], &["-o", &scratch], 1, "would hide"),
        (&[&store, &segments], &[], 1, "would hide"),
        (
            &[&store, &mount_point],
            &["-o", &scratch_inside],
            1,
            "would hide",
        ),
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
        (&[&store, &mount_point], &["-o", &refused], 32, "unmount it"),
        (&[&newer, &mount_point], &["-o", &scratch], 1, "newer"),
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
        assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 0);
    }
}

#[test]
fn a_mount_that_is_refused_leaves_nothing() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let options = format!("scratch={}", pool.scratch().display());
    // Root without the right to mount: the store is open by the time that this turns out.
    let powerless = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", POOLFS];
    for (path, message) in [
        ("/usr/bin:/bin", "fusermount3: "),
        ("/absent", "install fuse3"),
    ] {
        let output = Command::new("/usr/bin/setpriv")
            .args(powerless)
            .arg(pool.store_path())
            .arg(pool.mount_point())
            .args(["-o", &options])
            .env("PATH", path)
            .output()
            .unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(message), "{error}");
        assert!(!is_mounted(&pool.mount_point()));
        assert_eq!(fs::read_dir(pool.scratch()).unwrap().count(), 0);
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
    let _mount = pool.unmounted();
    let mounted = run(Command::new(POOLFS)
        .arg(pool.store_path())
        .arg(pool.mount_point())
        .args([
            "-o",
            &format!("nopassthrough,scratch={}", pool.scratch().display()),
        ]));
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
    // A commit fills slots that were on record as used before, with what others put there beside it.
    let unused = second.len().next_multiple_of(2 << 20) as u64 - 4096;
    let late = map.extents()[0].slot.byte_offset() + unused;
    let written = File::options().write(true).open(&backing).unwrap();
    written.write_all_at(&content(3, 4096), late).unwrap();
    pool.add_library("b@1", &second);
    assert!(read(&segment) == fs::read(&backing).unwrap());
    let mut page = vec![0; 4096];
    open.read_exact_at(&mut page, extent.slot.byte_offset())
        .unwrap();
    assert!(page == first[..4096]);
}
