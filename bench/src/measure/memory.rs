//! Memory of a process.

use std::fs;

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
    }
}
