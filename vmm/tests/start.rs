//! How a guest under KVM is started: what is asked of the host before its first instruction.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use pool_tests::requirements::{needs, skip};
use world::{World, has_processor_flag, text};

/// Says what of its arguments can be opened, then "ready", and waits for its input to end.
const PROGRAM: &str = r#"
    #include <stdio.h>
    #include <unistd.h>
    int main(int count, char **arguments)
    {
        for (int at = 1; at < count; at++)
            puts(fopen(arguments[at], "r") ? "yes" : "no");
        puts("ready");
        fflush(stdout);
        char byte;
        while (read(0, &byte, 1) > 0);
        return 0;
    }
"#;

/// Calls until the guest runs, with those of the C library's start, which differ, and on a host that is a guest nine that
/// take the place of one to KVM.
const MOST_CALLS: usize = 234;

fn world() -> World {
    World::of("program", "musl-gcc", &[], PROGRAM)
}

/// The calls of a run until the guest's first instruction, as `strace` says them, which `before` starts.
fn calls_before_the_guest(world: &World, before: &[&str]) -> Option<Vec<String>> {
    if Command::new("strace").arg("-V").output().is_err() {
        skip("strace is not installed");
        return None;
    }
    let file = world.directory.path().join("strace");
    let guest = world.vmm("program", &[], &[]);
    let traced = Command::new("env")
        .args(before)
        .args(["strace", "-o"])
        .arg(&file)
        .arg(guest.get_program())
        .args(guest.get_args())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(traced.status.success(), "{}", text(&traced.stderr));
    let trace = fs::read_to_string(&file).unwrap();
    let calls: Vec<String> = trace.lines().map(str::to_owned).collect();
    // The monitor's own code runs first.
    let mut runs = calls
        .iter()
        .enumerate()
        .filter(|(_, call)| call.contains("KVM_RUN"));
    let guest = runs.nth(1).unwrap().0;
    Some(calls[..guest].to_vec())
}

#[test]
fn a_start_asks_for_little() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    // One has come before, as on any host but at its first start.
    let status = world.vmm("program", &[], &[]).stdin(Stdio::null()).status();
    assert!(status.unwrap().success());
    let Some(calls) = calls_before_the_guest(&world, &[]) else {
        return;
    };
    let all = calls.len();
    assert!(all <= MOST_CALLS, "{all} calls: {calls:#?}");
    let count = |what: &str| calls.iter().filter(|call| call.contains(what)).count();
    // Each is a question to KVM or a change that goes with a run.
    assert_eq!((count("KVM_GET_SREGS"), count("KVM_SET_SREGS")), (1, 0));
    // What preparing took is given back when the guest has run.
    assert_eq!(count("MADV_DONTNEED"), 0);
    // Poolfs is asked to open a segment, and nothing else of it.
    let opened = calls.iter().find(|call| call.contains("/segments/"));
    let (_, segment) = opened.unwrap().rsplit_once("= ").unwrap();
    let asks = ["fstat(", "newfstatat("].map(|call| format!("{call}{segment},"));
    assert!(!asks.iter().any(|ask| count(ask) > 0), "{calls:#?}");
}

/// A host that is a guest itself answers in 270 us, which is why it is asked at its first start alone.
#[test]
fn what_kvm_supports_is_asked_once() {
    if !needs(&["root", "kvm"]) {
        return;
    }
    let world = world();
    let run = world.directory.path().join("run");
    fs::create_dir(&run).unwrap();
    let script = format!("mount --bind {} /run && exec \"$@\"", run.display());
    let asks = || {
        let before = ["unshare", "--mount", "sh", "-ec", &script, "sh"];
        let calls = calls_before_the_guest(&world, &before)?;
        let asks = |call: &&String| call.contains("KVM_GET_SUPPORTED_CPUID");
        Some(calls.iter().filter(asks).count())
    };
    let Some(first) = asks() else {
        return;
    };
    assert_eq!(first, 1);
    let kept = run.join("poolvmm/cpuid");
    if !has_processor_flag("hypervisor") {
        assert!(!kept.exists());
        return;
    }
    assert_eq!(asks(), Some(0));
    // What was true before the last boot, and what somebody else may have written: neither is believed, and both are replaced.
    let whole = fs::read(&kept).unwrap();
    let mut other = whole.clone();
    other[20] ^= 1;
    fs::write(&kept, other).unwrap();
    assert_eq!((asks(), asks()), (Some(1), Some(0)));
    assert_eq!(fs::read(&kept).unwrap().len(), whole.len());
    std::os::unix::fs::chown(&kept, Some(65534), None).unwrap();
    assert_eq!((asks(), asks()), (Some(1), Some(0)));
    // A place where nothing can be kept keeps no guest from its start.
    fs::remove_dir_all(run.join("poolvmm")).unwrap();
    fs::write(run.join("poolvmm"), "").unwrap();
    assert_eq!((asks(), asks()), (Some(1), Some(1)));
}

/// The kernel makes a user namespace for no process of several threads, and KVM adds one of its own when a guest first runs.
#[test]
fn directories_are_granted_without_a_privilege() {
    if !needs(&["root", "kvm"]) {
        return;
    }
    let world = world();
    let home = world.directory.path();
    let vmm = home.join("poolvmm");
    fs::copy(env!("CARGO_BIN_EXE_poolvmm"), &vmm).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.join("dev")).unwrap();
    fs::create_dir(home.join("data")).unwrap();
    fs::write(home.join("data/file"), "x").unwrap();
    let device = fs::metadata("/dev/kvm").unwrap().st_rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = home.join("dev");
    let place = place.display();
    // In a mount namespace, a device that everybody may use.
    let script = format!(
        "mount -t tmpfs none {place}\nmknod -m 666 {place}/kvm c {major} {minor}\n\
         mount --bind {place}/kvm /dev/kvm\n\
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \"$@\""
    );
    let runtime = home.join("runtime");
    fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(65534), Some(65534)).unwrap();
    let guest = world.granted("program", &[], &["/data/file", "/etc/passwd", "/root"]);
    let found = Command::new("unshare")
        .env("XDG_RUNTIME_DIR", &runtime)
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .arg(vmm)
        .args(guest.get_args())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&found.stderr);
    assert_eq!(text(&found.stdout), "yes\nyes\nno\nready\n", "{said}");
    // What KVM supports is kept for this user's next start.
    assert_eq!(
        runtime.join("poolvmm/cpuid").exists(),
        has_processor_flag("hypervisor")
    );
}
