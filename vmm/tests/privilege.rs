//! Guests that try to become privileged, and ordinary ones beside them, on two kinds of host: this
//! machine's KVM, and AMD-V, which QEMU emulates.

#![allow(clippy::unwrap_used)]

#[path = "privilege/cases.rs"]
mod cases;
#[path = "privilege/initramfs.rs"]
mod initramfs;
#[path = "privilege/qemu.rs"]
mod qemu;
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use cases::Case;
use pool_tests::requirements::{needs, skip};
use qemu::Ended;
use support::{Placement, TestPool, compile};
use tempfile::TempDir;

const HOSTILE: &str = include_str!("privilege/hostile.c");
const ORDINARY: &str = include_str!("privilege/ordinary.c");
const MAPPING_FUZZ: &str = include_str!("programs/mapping_fuzz.c");
const SPARSE: &str = include_str!("programs/sparse.c");
const THREADS: &str = include_str!("programs/threads.c");
const SIGNALS: &str = include_str!("programs/signals.c");
const CLOCK: &str = include_str!("programs/clock.c");
const PROCESSORS: &str = include_str!("programs/processors.c");
/// No C library, and nothing that the compiler adds.
const BARE: [&str; 6] = [
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-mno-sse",
    "-w",
];

struct World {
    directory: TempDir,
    pool: TestPool,
    programs: BTreeMap<&'static str, PathBuf>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut pool = TestPool::new(&directory.path().join("pool"));
        let mut programs = BTreeMap::new();
        for (name, compiler, flags, source) in [
            ("hostile", "gcc", &BARE[..], HOSTILE),
            ("musl", "musl-gcc", &["-fno-builtin"], ORDINARY),
            ("glibc", "gcc", &["-fno-builtin"], ORDINARY),
            ("mappings", "musl-gcc", &[], MAPPING_FUZZ),
            ("sparse", "musl-gcc", &[], SPARSE),
            ("clock", "musl-gcc", &[], CLOCK),
            ("processors", "musl-gcc", &["-pthread"], PROCESSORS),
            ("threads", "musl-gcc", &["-pthread", "-w"], THREADS),
            ("signals", "musl-gcc", &["-pthread", "-w"], SIGNALS),
        ] {
            let path = compile(directory.path(), name, compiler, flags, source);
            pool.add(&path, name, Placement::Dense);
            programs.insert(name, path);
        }
        Self {
            directory,
            pool,
            programs,
        }
    }

    /// Every run, `more` ordinary ones among them, and how those end natively.
    fn cases(&self, more: &[(&'static str, &'static str, u16)]) -> (Vec<Case>, Vec<Option<Ended>>) {
        let mut cases = cases::attempts();
        let mut natively = vec![None; cases.len()];
        let more = more.iter().copied();
        for (image, what, cpus) in cases::ordinary().into_iter().chain(more) {
            let arguments: Vec<String> = what.split(' ').map(str::to_owned).collect();
            let output = Command::new(&self.programs[image])
                .args(&arguments)
                .output();
            let ended = ended(&output.unwrap());
            cases.push(Case {
                image,
                cpus,
                arguments,
                right: vec![ended.status],
            });
            natively.push(Some(ended));
        }
        (cases, natively)
    }
}

fn ended(output: &Output) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    let status = output.status;
    let signalled = || status.signal().map(|signal| 128 + signal);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        status: status.code().or_else(signalled).unwrap(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// What is wrong with how `case` ended.
fn judge(case: &Case, found: &Ended, natively: Option<&Ended>) -> Option<String> {
    let stopped = found.err.contains("guest stopped");
    let in_words = stopped == (found.status >= 128);
    let same = natively.is_none_or(|natively| natively.out == found.out);
    let right = case.right.contains(&found.status) && in_words && same;
    (!right).then(|| {
        format!(
            "{} ({} processors) {}: {found:?}, not {:?}",
            case.image,
            case.cpus,
            case.line(),
            case.right
        )
    })
}

fn complain(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn no_guest_becomes_privileged_here() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::new();
    let (cases, natively) = world.cases(&[]);
    let mut wrong = Vec::new();
    for (case, natively) in cases.iter().zip(&natively) {
        let output = Command::new(env!("CARGO_BIN_EXE_poolvmm"))
            .args(["run", &format!("{}:v1", case.image), "--pool"])
            .arg(&world.pool.root)
            .args(["--cpus", &case.cpus.to_string(), "--"])
            .args(&case.arguments)
            .output()
            .unwrap();
        wrong.extend(judge(case, &ended(&output), natively.as_ref()));
    }
    complain(&wrong);
}

#[test]
fn no_guest_becomes_privileged_under_amd_v() {
    let kernel = match qemu::kernel() {
        Ok(kernel) => kernel,
        Err(missing) => return skip(&format!("{missing}: run scripts/install-amdv")),
    };
    let world = World::new();
    let (cases, natively) = world.cases(&cases::OF_MACHINES);
    let found = qemu::run(&kernel, &world.pool.root, world.directory.path(), &cases);
    let judged = cases.iter().zip(&found).zip(&natively);
    let wrong: Vec<String> = judged
        .filter_map(|((case, found), natively)| judge(case, found, natively.as_ref()))
        .collect();
    complain(&wrong);
}
