//! Memory of a process (PSS) and of the system.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Memory of one process, in bytes (`/proc/PID/smaps_rollup`, proc(5)).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessMemory {
    /// Proportional set size: private pages whole, shared ones divided by the number of processes
    /// that map them.
    pub(crate) pss: u64,
    /// Pages that belong to no file: what the program and its guest wrote.
    pub(crate) anonymous: u64,
}

/// Memory of a running process.
pub(crate) fn of_process(pid: u32) -> Result<ProcessMemory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let bytes = |name| {
        let kib = field(&text, name).with_context(|| format!("{path} has no line {name}"))?;
        anyhow::Ok(kib * 1024)
    };
    Ok(ProcessMemory {
        pss: bytes("Pss:")?,
        anonymous: bytes("Anonymous:")?,
    })
}

/// Memory that the system could still give out, in bytes: `MemAvailable` and the pages that sit in
/// per-CPU lists, which it leaves out and which can hold half a gigabyte.
fn available_bytes() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let available = field(&meminfo, "MemAvailable:").context("no MemAvailable")? * 1024;
    let zones = fs::read_to_string("/proc/zoneinfo").context("reading /proc/zoneinfo")?;
    let listed: u64 = zones.lines().filter_map(|line| field(line, "count:")).sum();
    Ok(available + listed * 4096)
}

/// [`available_bytes`] once it holds still: freed memory comes back slowly.
pub(crate) fn settled_available_bytes() -> Result<u64> {
    let mut last = available_bytes()?;
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(100));
        let now = available_bytes()?;
        if now.abs_diff(last) < 256 * 1024 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// The number behind `name` at the start of a line of `text`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "MemTotal:  10 kB\n  MemAvailable:    7 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(7));
        assert_eq!(field(text, "Pss:"), None);
    }

    #[test]
    fn this_process_takes_memory() {
        let own = of_process(std::process::id()).unwrap();
        assert!(own.pss > 4096 && own.anonymous > 4096);
        assert!(available_bytes().unwrap() > 1 << 20);
    }
}
