//! A machine with AMD-V, emulated: QEMU, with a kernel that `scripts/install-amdv` has unpacked.
//!
//! It boots once, runs every guest under its own KVM, says over its serial console how each ended,
//! and switches itself off.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::cases::Case;
use super::initramfs::Initramfs;

/// Modules in the order of their dependencies.
const MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
/// Boot and guests take half a minute on a quiet machine.
const LONGEST: Duration = Duration::from_secs(1200);
/// Runs the lines of /guests (number, image, arguments) and tells of each in one line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in irqbypass kvm kvm-amd; do /bin/busybox insmod /modules/$module.ko; done
while read -r number image cpus arguments; do
    /bin/poolvmm run "$image:v1" --pool /pool --cpus $cpus -- $arguments >/tmp/out 2>/tmp/err </dev/null
    status=$?
    echo "@@ $number $status"
    /bin/busybox sed 's/^/@out /' /tmp/out
    /bin/busybox sed 's/^/@err /' /tmp/err
done </guests
echo "@@ end"
/bin/busybox poweroff -f
"#;

/// How a guest ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Where QEMU's kernel is, or what is missing.
pub(crate) fn kernel() -> Result<PathBuf, String> {
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return Err("qemu-system-x86_64 is not installed".to_owned());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_poolvmm")).ancestors().nth(2);
    let directory = target.map(|target| target.join("amdv")).unwrap_or_default();
    let modules = MODULES.iter().map(|module| format!("{module}.ko"));
    for file in modules.chain(["vmlinuz".to_owned()]) {
        let path = directory.join(file);
        if !path.exists() {
            return Err(format!("there is no {}", path.display()));
        }
    }
    Ok(directory)
}

/// Runs guests of the pool at `pool`; in the same order, how they ended.
pub(crate) fn run(kernel: &Path, pool: &Path, scratch: &Path, cases: &[Case]) -> Vec<Ended> {
    let lines: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(number, case)| {
            let arguments = case.line();
            format!("{number} {} {} {arguments}\n", case.image, case.cpus)
        })
        .collect();
    let archive = scratch.join("initramfs");
    fs::write(&archive, initramfs(kernel, pool, &lines.concat())).unwrap();
    let console = boot(&kernel.join("vmlinuz"), &archive);
    let ended = read_console(&console);
    (0..cases.len())
        .map(|number| {
            let missing = || panic!("guest {number}: no answer; the console said:\n{console}");
            ended.get(&number).cloned().unwrap_or_else(missing)
        })
        .collect()
}

fn initramfs(kernel: &Path, pool: &Path, guests: &str) -> Vec<u8> {
    let mut archive = Initramfs::default();
    for directory in ["bin", "dev", "modules", "proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    let read = |path: &Path| fs::read(path).unwrap();
    archive.file("init", INIT.as_bytes());
    archive.file("guests", guests.as_bytes());
    archive.file("bin/busybox", &read(Path::new("/usr/bin/busybox")));
    archive.file(
        "bin/poolvmm",
        &read(Path::new(env!("CARGO_BIN_EXE_poolvmm"))),
    );
    for module in MODULES {
        let name = format!("{module}.ko");
        archive.file(&format!("modules/{name}"), &read(&kernel.join(&name)));
    }
    archive.tree("pool", pool);
    archive.finish()
}

/// Ends the machine whatever happens to the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots to the end; what was said on the serial console.
fn boot(kernel: &Path, archive: &Path) -> String {
    // The kernel ends the machine if this process is killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "EPYC,+svm,+npt,+umip",
        ])
        .args(["-m", "1G", "-smp", "1", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio"])
        .args([
            "-append",
            // A machine that is kept from running for a while has no broken timer.
            "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off no_timer_check",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let mut serial = running.0.stdout.take().unwrap();
    let (send, receive) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = serial.read(&mut part) {
            said.extend_from_slice(&part[..length]);
        }
        let _ = send.send(());
        String::from_utf8_lossy(&said).replace('\r', "")
    });
    let ended = receive.recv_timeout(LONGEST);
    drop(running);
    let said = reader.join().unwrap();
    assert!(ended.is_ok(), "no end after {LONGEST:?}:\n{said}");
    assert!(said.contains("@@ end\n"), "it stopped early:\n{said}");
    said
}

fn read_console(console: &str) -> BTreeMap<usize, Ended> {
    let mut ended: BTreeMap<usize, Ended> = BTreeMap::new();
    let mut current = None;
    for line in console.lines() {
        if let Some(rest) = line.strip_prefix("@@ ") {
            let mut words = rest.split(' ').map(str::parse::<i32>);
            current = match (words.next(), words.next()) {
                (Some(Ok(number)), Some(Ok(status))) => {
                    let entry = ended.entry(number as usize).or_default();
                    entry.status = status;
                    Some(number as usize)
                }
                _ => None,
            };
        }
        let Some(entry) = current.and_then(|number| ended.get_mut(&number)) else {
            continue;
        };
        if let Some(text) = line.strip_prefix("@out ") {
            entry.out.push_str(text);
            entry.out.push('\n');
        } else if let Some(text) = line.strip_prefix("@err ") {
            entry.err.push_str(text);
            entry.err.push('\n');
        }
    }
    ended
}
