//! A full disk: a clear error, nothing half visible, and work goes on once there is room.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{announcement, assert_stored, content, negotiate, open, push_library};
use pool_store::StoreError;
use pool_store::placement::Placement;

/// A small file system of its own, unmounted in the end whatever happens.
struct SmallDisk {
    mountpoint: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a message, when this process may not mount.
    fn new(mebibytes: u32) -> Option<Self> {
        if !pool_tests::requirements::needs(&["root"]) {
            return None;
        }
        let mountpoint = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={mebibytes}m"))
            .arg("tmpfs")
            .arg(mountpoint.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting a tmpfs failed");
        Some(Self { mountpoint })
    }

    fn path(&self) -> PathBuf {
        self.mountpoint.path().join("store")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.mountpoint.path();
        let unmounted = Command::new("umount").arg("-l").arg(path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", path.display());
        }
    }
}

/// Writes until the disk has `left` bytes left.
fn fill(path: &Path, left: u64) -> PathBuf {
    let ballast = path.with_file_name("ballast");
    let room = rustix::fs::statvfs(path).unwrap();
    let bytes = (room.f_bavail * room.f_frsize).saturating_sub(left);
    match fs::write(&ballast, vec![1; bytes as usize]) {
        // The index writes its own log meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
        other => other.unwrap(),
    }
    ballast
}

/// Repeats a push until the index has noticed that there is room again.
fn until_done<T>(mut push: impl FnMut() -> Result<T, StoreError>) -> T {
    let since = Instant::now();
    loop {
        match push() {
            Ok(done) => return done,
            Err(StoreError::NoSpace { .. }) if since.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_full_disk_changes_nothing_and_room_lets_work_go_on() {
    // Room for nothing, for the temporary file alone, for a part of the segments, and for those
    // but not for the index.
    for left in [0, 64 << 10, 3 << 20, (5 << 20) + (96 << 10)] {
        let Some(disk) = SmallDisk::new(64) else {
            return;
        };
        let path = disk.path();
        let store = open(&path);
        let known = content(1, 100);
        push_library(&store, "known@1", &known, Placement::Sparse).unwrap();
        // A segment that nothing was committed to may be left, and is the next one to be used.
        let in_use = || {
            let segments = store.segments().unwrap().into_iter();
            segments
                .filter(|(_, record)| record.used > 0)
                .collect::<Vec<_>>()
        };
        let before = in_use();
        let ballast = fill(&path, left);
        let bytes = content(2, 1300);
        let push = || push_library(&store, "new@1", &bytes, Placement::Windows { phase: 0 });
        let mut refused = 0;
        for nth in 0..3000 {
            let result = if nth == 0 {
                push().map(drop)
            } else {
                // Small pushes use up what is left until the index itself is refused.
                let name = format!("s{nth}@1");
                push_library(&store, &name, &content(nth, 1), Placement::Sparse).map(drop)
            };
            match result {
                Ok(()) => {}
                Err(StoreError::NoSpace { .. }) => refused += 1,
                Err(other) => panic!("{left} bytes left: {other}"),
            }
            if nth == 0 && refused == 1 {
                assert_eq!(in_use(), before, "{left} bytes left");
                assert!(
                    store
                        .library(&common::library_ref("new@1"))
                        .unwrap()
                        .is_none()
                );
            }
            if refused > 2 {
                break;
            }
        }
        assert!(refused > 0, "{left} bytes left were enough for everything");
        assert_stored(&store, &known);

        fs::remove_file(ballast).unwrap();
        until_done(push);
        let other = content(3, 700);
        until_done(|| {
            let manifest = announcement("other@1", &other, Placement::Sparse);
            negotiate(&store, manifest, &other)
        });
        drop(store);
        let store = open(&path);
        for bytes in [&known, &bytes, &other] {
            assert_stored(&store, bytes);
        }
        drop(store);
    }
}
