//! Runs of guests to their end.

use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::Host;

/// How a guest's pages get into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Mapped from the pool.
    Pool,
    /// Loaded privately: the baseline.
    Copy,
}

impl Backing {
    /// Both, the baseline first.
    pub const ALL: [Self; 2] = [Self::Copy, Self::Pool];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Copy => "copy",
        }
    }
}

/// A guest that ran to its end.
#[derive(Debug)]
pub struct Run {
    /// What it printed.
    pub output: Vec<u8>,
    /// What it printed as errors.
    pub errors: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
    /// The VMM's report.
    pub report: Value,
}

impl Run {
    /// A number of the report, by JSON pointer; 0 when it is not there.
    pub fn number(&self, pointer: &str) -> f64 {
        self.report
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or(0.0)
    }
}

/// The command that runs an image, without arguments for the guest.
pub fn command(host: &Host, image: &str, backing: Backing, platform: &str) -> Command {
    let mut command = Command::new(host.binary("poolvmm"));
    command
        .arg("run")
        .arg(image)
        .arg("--pool")
        .arg(host.mount_point())
        .args(["--backing", backing.name(), "--platform", platform])
        .stdin(Stdio::null());
    command
}

/// Runs an image to its end.
pub fn run(host: &Host, image: &str, backing: Backing, platform: &str) -> Result<Run> {
    let report = tempfile::NamedTempFile::new().context("making a report file")?;
    let mut command = command(host, image, backing, platform);
    command.arg("--report").arg(report.path());
    command.args(["--start-stamp", &monotonic_ns().to_string()]);
    let output = command.output().context("starting poolvmm")?;
    let text = std::fs::read(report.path()).context("reading the VMM's report")?;
    ensure!(
        !text.is_empty(),
        "poolvmm could not run {image} ({}, {platform}): {}",
        backing.name(),
        String::from_utf8_lossy(&output.stderr)
    );
    let report = serde_json::from_slice(&text).context("reading the VMM's report")?;
    Ok(Run {
        output: output.stdout,
        errors: output.stderr,
        status: output.status,
        report,
    })
}

/// Nanoseconds of `CLOCK_MONOTONIC`, comparable between processes.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `command` as somebody starts it who does with signals what `options` of env(1) say.
pub fn with_signals(options: &[&str], command: &Command) -> Command {
    let mut started = Command::new("env");
    started.args(options).arg(command.get_program());
    started.args(command.get_args());
    started
}

/// Has the kernel end this process as soon as the thread that started it has ended, however that came: for a part of a test that does not
/// end by itself.
///
/// # Panics
///
/// When the kernel has no such thing.
pub fn ends_with_its_parent() {
    let killed = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(killed).expect("it is prctl(2) of Linux");
}

/// `command`, ended for good if it hangs: a monitor that waits takes no other signal.
pub fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded
        .args(["-s", "KILL", "60"])
        .arg(command.get_program());
    bounded.args(command.get_args());
    bounded
}
