//! What guests that are processes reach of their host: its network, devices and files, as whoever they
//! were started.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

use pool_tests::requirements::needs;
use world::{World, text};

const HOST: &str = include_str!("programs/process_host.c");
const PROCESS: [&str; 2] = ["--platform", "process"];
const NET: [&str; 2] = ["--net", "host"];
const NOT_PERMITTED: &str = "Operation not permitted";

fn world() -> World {
    World::of("program", "musl-gcc", &["-pthread", "-w"], HOST)
}

fn said(world: &World, options: &[&str], arguments: &[&str]) -> String {
    let found = world.run("program", &[&PROCESS[..], options].concat(), arguments);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    text(&found.stdout)
}

#[test]
fn local_sockets_of_the_host_are_out_of_reach() {
    let world = world();
    let name = format!("poolvmm-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let _receiver = UnixDatagram::bind_addr(&address).unwrap();
    let path = world.directory.path().join("socket");
    let datagrams = UnixDatagram::bind(&path).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let own = "own yes, connected yes\n";
    let others = format!("netlink yes\nraw {NOT_PERMITTED}\n");
    let found = said(&world, &NET, &["names", &name]);
    let expected = format!(
        "socket yes, connected {NOT_PERMITTED}, sent {NOT_PERMITTED}\n\
         pair yes, sent {NOT_PERMITTED}\nstream pair yes, sent no\n{own}{others}"
    );
    assert_eq!(found, expected);
    // In the guest's file system there is no such path; without one, no socket asks for it.
    let path = path.to_str().unwrap();
    let none = "No such file or directory";
    let found = said(&world, &NET, &["names", path]);
    let expected = format!(
        "socket yes, connected {none}, sent {none}\n\
         pair yes, sent {none}\nstream pair yes, sent no\n{own}{others}"
    );
    assert_eq!(found, expected);
    let found = said(&world, &[], &["names", path]);
    assert!(
        found.starts_with("socket Address family not supported by protocol, "),
        "{found}"
    );
    assert!(
        found.contains(
            "\npair Socket type not supported\nstream pair yes, sent no\nown Permission denied"
        ),
        "{found}"
    );
    assert!(datagrams.recv(&mut [0; 8]).is_err(), "nothing came");
}

#[test]
fn a_guest_talks_to_itself_by_the_hosts_network() {
    let world = world();
    let found = said(&world, &NET, &["loopback"]);
    assert_eq!(found, "connected yes\n1000000 bytes\n");
}

#[test]
fn devices_are_used_and_not_changed() {
    if !needs(&["root"]) {
        return;
    }
    let world = world();
    let read_only = "Read-only file system";
    let expected = format!("mode {read_only}\nopen yes, written yes, mode {read_only}\n");
    assert_eq!(said(&world, &NET, &["devices"]), expected);
}

/// The VMM changes an open file for the guest, and may no more than it.
#[test]
fn attributes_are_set_as_the_guest_might() {
    let world = world();
    let data = world.directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    let bad = "Bad address";
    let expected = format!(
        "set yes, got yes open\nagain File exists\n\
         no name {bad}, no value {bad}, too large Argument list too long, \
         no file Bad file descriptor, privileged {NOT_PERMITTED}, input {NOT_PERMITTED}\n\
         now yes, links without a path Invalid argument, none {bad}\n"
    );
    assert_eq!(said(&world, &["--dir", &grant], &["attributes"]), expected);
}

#[test]
fn the_local_time_is_utc() {
    assert_eq!(said(&world(), &NET, &["time"]), "00:00 UTC\n");
}

/// `command` as a user without any privilege, in a mount namespace where `prepare` was run by root.
fn as_nobody(prepare: &str, command: &Command) -> Command {
    let mut shell = Command::new("unshare");
    let script = format!(
        "{prepare}\nexec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \"$@\""
    );
    shell
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell
}

/// A copy of the VMM and a pool that everybody may read.
fn readable_by_all(world: &World, arguments: &[&str], options: &[&str]) -> Command {
    let home = world.directory.path();
    let vmm = home.join("poolvmm");
    fs::copy(env!("CARGO_BIN_EXE_poolvmm"), &vmm).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    let run = world.vmm("program", &[&PROCESS[..], options].concat(), arguments);
    let mut command = Command::new(vmm);
    command.args(run.get_args());
    command
}

fn owned_by_nobody(path: &Path) {
    fs::create_dir(path).unwrap();
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
}

#[test]
fn directories_are_granted_without_a_privilege() {
    if !needs(&["root"]) {
        return;
    }
    let world = world();
    let data = world.directory.path().join("data");
    let kept = world.directory.path().join("kept");
    owned_by_nobody(&data);
    owned_by_nobody(&kept);
    fs::write(kept.join("file"), "x").unwrap();
    let path = data.display();
    let grants = [
        format!("{path}:/data"),
        format!("{}:/kept:ro", kept.display()),
    ];
    let options = ["--dir", &grants[0], "--dir", &grants[1]];
    let arguments = [
        "files",
        "+/data/new",
        "+/tmp/new",
        "/kept/file",
        "+/kept/new",
        "/etc/passwd",
        "/root",
    ];
    let expected = "+/data/new: yes\n+/tmp/new: yes\n/kept/file: yes\n\
                    +/kept/new: Read-only file system\n/etc/passwd: yes\n/root: No such file or directory\n";
    // On a mount that forbids more, which a user namespace cannot allow again.
    let restricted = format!("mount -t tmpfs -o nosuid,nodev,noexec,mode=777 none {path}");
    for prepare in ["", &restricted] {
        let guest = readable_by_all(&world, &arguments, &options);
        let found = as_nobody(prepare, &guest).output().unwrap();
        assert_eq!(
            text(&found.stdout),
            expected,
            "{prepare}: {}",
            text(&found.stderr)
        );
    }
    // What is mounted below is neither shown nor uncovered.
    fs::create_dir(data.join("below")).unwrap();
    let nested = format!("mount -t tmpfs none {path}/below");
    let guest = readable_by_all(&world, &arguments, &options);
    let found = as_nobody(&nested, &guest).output().unwrap();
    let said = text(&found.stderr);
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("something is mounted below"), "{said}");
}

#[test]
fn who_may_make_no_namespace_is_told_what_it_takes() {
    if !needs(&["root"]) {
        return;
    }
    let world = world();
    let data = world.directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    let guest = world.vmm(
        "program",
        &[&PROCESS[..], &["--dir", &grant]].concat(),
        &["files", "/data"],
    );
    // The limit is that of the user namespace which ends with the run.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces\n\
                  exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let found = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-ec", script, "sh"])
        .arg(guest.get_program())
        .args(guest.get_args())
        .output()
        .unwrap();
    let said = text(&found.stderr);
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(
        said.contains("takes CAP_SYS_ADMIN or user namespaces"),
        "{said}"
    );
}
