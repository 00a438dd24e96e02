//! SIGTERM to a daemon whose mount is not where it was made, and what a daemon keeps open.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::process::Command;

use common::{POOLFS, Pool, apart, cannot_mount, run, text};
use pool_tests::wait;

/// Mounts in a mount namespace of its own, does `then` to it, sends SIGTERM, does `after` and waits
/// for the end. Answers what was printed, errors last.
fn terminated(pool: &Pool, then: &str, after: &str) -> String {
    let script = format!(
        "cd \"$1\"; mkdir other scratch\n\
         \"$2\" store mnt -f -o \"scratch=$1/scratch\" 2> errors & daemon=$!\n\
         wait_until() {{ tries=0; until \"$@\"; do\n\
           tries=$((tries + 1)); [ $tries -lt 12000 ] || {{ echo \"waited in vain: $*\" >&2; cat errors >&2; exit 9; }}\n\
           sleep 0.01; done; }}\n\
         wait_until mountpoint -q mnt\n\
         {then}\n\
         kill -TERM $daemon\n\
         {after}\n\
         wait $daemon && status=0 || status=$?\n\
         echo \"status $status, $(grep -c \"^[^-]* $1/.*fuse.poolfs\" /proc/self/mountinfo) mounted, $(ls scratch | wc -l) left\"\n\
         cat errors"
    );
    let output = run(apart(&script).arg(pool.directory.path()).arg(POOLFS));
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_moved_mount_is_unmounted_where_it_is() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    let seen = terminated(
        &pool,
        "mount --move mnt other; cat other/libs/a/1/content",
        "",
    );
    assert_eq!(seen, "onestatus 0, 0 mounted, 0 left\n");
}

#[test]
fn a_covered_mount_ends_with_an_error() {
    if cannot_mount() {
        return;
    }
    for cover in [
        "mount -t tmpfs none mnt",
        // Its parent: the path leads elsewhere although nothing is mounted right there.
        "mkdir -p under/mnt; mount --move mnt under/mnt; mount -t tmpfs none under",
    ] {
        let pool = Pool::with_one_library();
        let seen = terminated(&pool, cover, "");
        assert!(seen.starts_with("status 1, 1 mounted, 0 left\n"), "{seen}");
        assert!(seen.contains("lies under another mount"), "{seen}");
    }
}

#[test]
fn a_covered_mount_is_served_until_all_is_closed_and_leaves_when_uncovered() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    let cover = "exec 9< mnt/libs/a/1/content; mount -t tmpfs none mnt";
    let told = "wait_until grep -q 'lies under' errors";
    let closed = format!("{told}; cat <&9; exec 9<&-");
    let seen = terminated(&pool, cover, &closed);
    assert!(seen.starts_with("onestatus 1, 1 mounted"), "{seen}");

    let pool = Pool::with_one_library();
    let uncovered = format!("{told}; umount mnt; kill -TERM $daemon; cat <&9; exec 9<&-");
    let seen = terminated(&pool, cover, &uncovered);
    assert!(
        seen.starts_with("onestatus 0, 0 mounted, 0 left\n"),
        "{seen}"
    );
}

#[test]
fn a_daemon_keeps_nothing_open_of_who_started_it() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    // A lock goes with the last descriptor that leads to the file as it was opened here.
    let held = pool.directory.path().join("held");
    let script = "exec 9> \"$1\"; flock 9; shift; exec \"$@\"";
    let _mount = pool.unmounted();
    let mounted = run(Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(&held)
        .arg(POOLFS)
        .args([pool.store_path(), pool.mount_point()])
        .args(["-o", &format!("scratch={}", pool.scratch().display())]));
    assert!(mounted.status.success());
    assert!(File::open(&held).unwrap().try_lock().is_ok());
}

#[test]
fn a_mount_that_another_is_in_is_left_until_that_is_gone() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    let inside = "mount -t tmpfs none mnt/libs; echo precious > mnt/libs/file";
    let told = "wait_until grep -q 'something is mounted in' errors";
    let seen = terminated(&pool, inside, told);
    assert!(seen.starts_with("status 1, 1 mounted, 0 left\n"), "{seen}");

    // Something open keeps it served until the one inside is gone.
    let pool = Pool::with_one_library();
    let inside = format!("exec 9< mnt/libs/a/1/content; {inside}");
    let left = format!("{told}; cat mnt/libs/file; umount mnt/libs; cat <&9; exec 9<&-");
    let seen = terminated(&pool, &inside, &left);
    assert!(
        seen.starts_with("precious\nonestatus 0, 0 mounted, 0 left\n"),
        "{seen}"
    );
}

#[test]
fn a_daemon_that_is_slow_to_end_takes_the_next_mount_for_no_cover() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    // The next mount gets the numbers that this one has in the table of mounts.
    let next = "kill -STOP $daemon; umount mnt; \"$2\" store mnt -o \"scratch=$1/scratch\"\n\
                trap 'umount mnt' EXIT";
    let seen = terminated(&pool, next, "kill -CONT $daemon");
    assert_eq!(seen, "status 0, 1 mounted, 1 left\n");
    wait::until("the next daemon ends", || {
        fs::read_dir(pool.scratch()).unwrap().next().is_none()
    });
}
