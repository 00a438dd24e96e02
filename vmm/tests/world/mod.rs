//! Images in a pool of their own, and the ways to run them.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output};

use pool_tests::wait;
use tempfile::TempDir;

use crate::support::{Placement, TestPool, compile};

#[derive(Debug)]
pub struct World {
    pub directory: TempDir,
    pub pool: TestPool,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = TestPool::new(&directory.path().join("pool"));
        Self { directory, pool }
    }

    /// A world with one image, as [`Self::build`] makes it.
    pub fn of(name: &str, compiler: &str, flags: &[&str], source: &str) -> Self {
        let mut world = Self::new();
        world.build(name, compiler, flags, source);
        world
    }

    pub fn build(&mut self, name: &str, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
        let path = compile(self.directory.path(), name, compiler, flags, source);
        self.pool.add(&path, name, Placement::Dense);
        path
    }

    pub fn vmm(&self, image: &str, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poolvmm"));
        command
            .args(["run", &format!("{image}:v1"), "--pool"])
            .arg(&self.pool.root);
        command.args(options).arg("--").args(arguments);
        command
    }

    /// What of the host `granted` guests find as `/data`.
    pub fn data(&self) -> PathBuf {
        let data = self.directory.path().join("data");
        fs::create_dir_all(&data).unwrap();
        data
    }

    /// A guest that may use [`Self::data`].
    pub fn granted(&self, image: &str, options: &[&str], arguments: &[&str]) -> Command {
        let grant = format!("{}:/data", self.data().display());
        self.vmm(image, &[options, &["--dir", &grant]].concat(), arguments)
    }

    pub fn run(&self, image: &str, options: &[&str], arguments: &[&str]) -> Output {
        self.vmm(image, options, arguments).output().unwrap()
    }
}

/// A VMM with a guest, ended with the value.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// The process of a guest that is one, once it is the guest: in a call of this number.
    pub fn guest_in_call(&mut self, number: u32) -> u32 {
        let vmm = self.0.id();
        wait::until_some("the guest's process", || {
            let children = fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).ok()?;
            let guest: u32 = children.split_whitespace().next()?.parse().ok()?;
            let call = fs::read_to_string(format!("/proc/{guest}/syscall")).ok()?;
            (call.split_whitespace().next()? == number.to_string()).then_some(guest)
        })
    }

    /// How it ends, and what it has said as errors by then.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        if let Some(mut errors) = self.0.stderr.take() {
            errors.read_to_string(&mut said).unwrap();
        }
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub const WAYS: [[&str; 4]; 4] = [
    ["--platform", "kvm", "--backing", "pool"],
    ["--platform", "kvm", "--backing", "copy"],
    ["--platform", "process", "--backing", "pool"],
    ["--platform", "process", "--backing", "copy"],
];

/// Seeds to try: more of them in a soak.
pub fn seeds(usual: u64) -> u64 {
    std::env::var("POOL_SOAK_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The host's kernel: first and second part of its version.
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// True if the host's kernel names `flag` among its processors'.
pub fn has_processor_flag(flag: &str) -> bool {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap();
    let mut flags = processors.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|word| word == flag))
}

pub fn assert_same(what: &str, found: &Output, native: &Output) {
    assert_eq!(
        text(&found.stdout),
        text(&native.stdout),
        "{what}: {}",
        text(&found.stderr)
    );
    assert_eq!(
        found.status.code(),
        native.status.code(),
        "{what}: {}",
        text(&found.stderr)
    );
}
