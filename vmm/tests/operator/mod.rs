//! An operator who has secrets, and runs guests that try to find them.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::world::World;

pub const PROCESS: [&str; 2] = ["--platform", "process"];
/// In the environment, the arguments and the paths of the VMM, and nowhere in a guest.
pub const MARKER: &str = "q7Zk-operators-secret-0fW2";

/// An operator with secrets: where the VMM is started, how, and where its report goes.
#[derive(Debug)]
pub struct Operator {
    pub world: World,
    pub home: PathBuf,
}

impl Operator {
    pub fn new() -> Self {
        let world = World::new();
        let home = world.directory.path().join(MARKER);
        fs::create_dir(&home).unwrap();
        Self { world, home }
    }

    pub fn build(&mut self, name: &str, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
        self.world.build(name, compiler, flags, source)
    }

    pub fn report(&self) -> PathBuf {
        self.home.join("report.json")
    }

    pub fn vmm(&self, image: &str, options: &[&str], arguments: &[&str]) -> Command {
        let report = self.report();
        let options = [options, &["--report", report.to_str().unwrap()]].concat();
        let mut command = self.world.vmm(image, &options, arguments);
        command
            .env("OPERATORS_TOKEN", MARKER)
            .current_dir(&self.home)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, image: &str, options: &[&str], arguments: &[&str]) -> Output {
        self.vmm(image, options, arguments).output().unwrap()
    }

    /// What the last run reported.
    pub fn reported(&self) -> Value {
        serde_json::from_slice(&fs::read(self.report()).unwrap()).unwrap()
    }

    /// KiB of the guest's largest resident set in the last run.
    pub fn peak(&self) -> i64 {
        self.reported()["host"]["peak_rss_kib"].as_i64().unwrap()
    }
}

/// Number of a call on x86-64.
pub fn libc_number(name: &str) -> u32 {
    let mut calls = poolvmm::linux::table::calls();
    calls.find(|call| call.name == name).unwrap().number as u32
}
