//! What `pool` reads from and writes to: full disks, closed ends, links, odd names, services that
//! say nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::common::{BUSYBOX, Pool, busybox, pool as run_pool};

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let pool = Pool::start();
    fs::write(pool.path("content"), "no line of its own").unwrap();
    pool.text(&["push", "lib", "content", "--name", "z", "--version", "1"]);
    for verb in [
        &["cat", "lib/z@1"][..],
        &["ls"],
        &["describe", BUSYBOX],
        &["inspect", BUSYBOX],
        &["minify", BUSYBOX, "-o", "-"],
        &["link", "--version"],
        &["stats", "--json"],
    ] {
        let output = pool.command(verb).stdout(full_disk()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb:?}");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(says.contains("No space left"), "{verb:?}: {says}");
    }
    // Without anybody to tell it to, a failure is one all the same.
    let mut failing = pool.command(&["cat", "lib/none@1"]);
    let status = failing.stderr(full_disk()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_output_is_written_where_a_link_leads() {
    let pool = Pool::start();
    let expected = pool.bytes(&["describe", BUSYBOX]);
    // As /dev/stdout is one.
    let link = pool.path("stdout");
    symlink("/proc/self/fd/1", &link).unwrap();
    let file = File::create(pool.path("redirected")).unwrap();
    let mut describe = pool.command(&["describe", BUSYBOX, "-o", "stdout"]);
    assert!(describe.stdout(file).status().unwrap().success());
    assert!(link.is_symlink());
    assert_eq!(fs::read(pool.path("redirected")).unwrap(), expected);
    symlink("absent", pool.path("dangling")).unwrap();
    pool.text(&["describe", BUSYBOX, "-o", "dangling"]);
    assert!(pool.path("dangling").is_symlink());
    assert_eq!(fs::read(pool.path("absent")).unwrap(), expected);
}

#[test]
fn files_may_have_any_name() {
    let pool = Pool::start();
    let expected = pool.text(&["inspect", BUSYBOX]);
    for name in [&b"\xff.elf"[..], b"-x", b"lib", b"a b\n"] {
        let name = OsStr::from_bytes(name);
        fs::write(pool.directory.path().join(name), busybox()).unwrap();
        for verb in [
            &["inspect", "--"][..],
            &["describe", "--"],
            &["extract", "-d", "parts", "--"],
            &["minify", "-o", "small", "--"],
            &["push", "image", "--name", "a", "--tag", "b", "--"],
        ] {
            let output = pool.command(verb).arg(name).output().unwrap();
            let says = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{verb:?} {name:?}: {says}");
            if verb[0] == "inspect" {
                assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
            }
        }
    }
}

#[test]
fn what_is_removed_is_told_whatever_follows() {
    let pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let says = pool.refused(1, &["rm", "image/bb:v1", "image/bb:v2", "image/bb:v3"]);
    assert!(says.contains("removed image/bb:v1, and then"), "{says}");
    assert!(says.contains("no image/bb:v2"), "{says}");
}

#[test]
fn a_service_that_says_nothing_is_given_up() {
    let pool = Pool::start();
    fs::write(pool.path("large"), vec![1; 64 << 20]).unwrap();
    // The kernel takes the connection, and nobody ever reads.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = pool.path("silent.sock");
    let _unix = UnixListener::bind(&path).unwrap();
    for server in [
        format!("http://{}", tcp.local_addr().unwrap()),
        format!("unix:{}", path.display()),
    ] {
        for verb in [
            &["ls"][..],
            &["gc"],
            &["push", "lib", "large", "--name", "z", "--version", "1"],
        ] {
            let said = ["--timeout", "1", "--server", &server];
            let mut command = run_pool(&[&said[..], verb].concat());
            let output = command.current_dir(pool.directory.path()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{verb:?}");
            let says = String::from_utf8(output.stderr).unwrap();
            assert!(says.contains("silent for 1 seconds"), "{verb:?}: {says}");
            assert!(says.contains(&server), "{verb:?}: {says}");
        }
    }
}
