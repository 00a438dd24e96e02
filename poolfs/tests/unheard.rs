//! A daemon whose messages nobody can take.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{POOLFS, Pool, cannot_mount, content, is_mounted, text};
use pool_tests::wait;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn messages_that_cannot_be_written_end_no_mount() {
    if cannot_mount() {
        return;
    }
    for (redirection, log) in [("2>/dev/full", ""), ("2>&-", ""), ("", ",log=/dev/full")] {
        let pool = Pool::new();
        // Segments by way of the program are warned of, and there is more to say than that.
        let options = format!("nopassthrough,rw,scratch={}{log}", pool.scratch().display());
        let _mount = pool.unmounted();
        let mut daemon = Command::new("sh")
            .args(["-c", &format!("exec \"$@\" {redirection}"), "sh", POOLFS])
            .arg(pool.store_path())
            .arg(pool.mount_point())
            .args(["-f", "-o", &options])
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait::until("it is mounted", || is_mounted(&pool.mount_point()));
        pool.add_library("late@1", &content(9, 5000));
        let read = fs::read(pool.path("libs/late/1/content")).unwrap();
        assert!(read == content(9, 5000), "{redirection}{log}");
        let pid = Pid::from_child(&daemon);
        kill_process(pid, Signal::TERM).unwrap();
        assert!(daemon.wait().unwrap().success(), "{redirection}{log}");
        assert!(!is_mounted(&pool.mount_point()), "{redirection}{log}");
    }
}

#[test]
fn a_connection_that_is_open_already_is_refused_in_words() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::with_one_library();
    // As mount.fuse3 calls its program when it is told drop_privileges.
    let output = Command::new("sh")
        .args([
            "-c",
            "exec \"$1\" \"$2\" /dev/fd/3 3<>/dev/fuse",
            "sh",
            POOLFS,
        ])
        .arg(pool.store_path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("leave that option out"), "{said}");
}
