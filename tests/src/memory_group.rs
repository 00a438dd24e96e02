//! A memory control group for a set of processes: what the kernel charges to them, its own
//! structures (page tables, KVM's shadow pages, descriptors) included.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A group that is removed when the value is dropped; its processes must have ended by then.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    files: Files,
}

/// What a version of control groups calls its files.
#[derive(Clone, Copy, Debug)]
struct Files {
    usage: &'static str,
    limit: &'static str,
    /// Where it counts swap: the name, and whether that is of memory and swap together.
    swap: (&'static str, bool),
}

const VERSIONS: [(&str, Files); 2] = [
    (
        "/sys/fs/cgroup/memory",
        Files {
            usage: "memory.usage_in_bytes",
            limit: "memory.limit_in_bytes",
            swap: ("memory.memsw.limit_in_bytes", true),
        },
    ),
    (
        "/sys/fs/cgroup",
        Files {
            usage: "memory.current",
            limit: "memory.max",
            swap: ("memory.swap.max", false),
        },
    ),
];

impl MemoryGroup {
    /// Makes a group, under whichever version of control groups is mounted.
    pub fn create(name: &str) -> Result<Self> {
        for (root, files) in VERSIONS {
            let path = Path::new(root).join(format!("{name}-{}", std::process::id()));
            if !Path::new(root).join("cgroup.procs").exists() {
                continue;
            }
            fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
            let group = Self { path, files };
            if group.path.join(files.usage).exists() {
                return Ok(group);
            }
        }
        bail!("no memory control group can be made here (root and cgroup memory are needed)")
    }

    /// The file to which a process writes its number to join.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Bounds what is charged to the group: that much memory, and no swap where swap is counted.
    pub fn bound(&self, bytes: u64) -> Result<()> {
        let write = |name: &str, bytes: u64| {
            let path = self.path.join(name);
            fs::write(&path, bytes.to_string())
                .with_context(|| format!("writing {}", path.display()))
        };
        write(self.files.limit, bytes)?;
        let (swap, together) = self.files.swap;
        if self.path.join(swap).exists() {
            write(swap, if together { bytes } else { 0 })?;
        }
        Ok(())
    }

    /// Bytes charged to the group now.
    pub fn bytes(&self) -> Result<u64> {
        let path = self.path.join(self.files.usage);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    /// Bytes charged to the group without pages of files that nobody maps: the kernel reads ahead, on some disks
    /// by megabytes, and takes such pages back as soon as it wants them (`memory.stat` of both versions).
    pub fn held(&self) -> Result<u64> {
        let path = self.path.join("memory.stat");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(self.bytes()?.saturating_sub(unmapped(&text)))
    }

    /// Bytes charged to the group, once the number holds still; a failure if it does not.
    pub fn settled_bytes(&self) -> Result<u64> {
        const PAUSE: Duration = Duration::from_millis(100);
        const MOST_PAUSES: u32 = 100;
        let mut last = self.bytes()?;
        for _ in 0..MOST_PAUSES {
            thread::sleep(PAUSE);
            let now = self.bytes()?;
            if now == last {
                return Ok(last);
            }
            last = now;
        }
        bail!(
            "the memory of {} has not held still in {:?}: let nothing else run in it",
            self.path.display(),
            PAUSE * MOST_PAUSES
        )
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel refuses while a process is still on its way out.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!(
            "leaving {} behind: it still has processes",
            self.path.display()
        );
    }
}

/// Bytes of files' pages that nobody maps, of a group's statistics. Pages of tmpfs are files' pages, too, and
/// stay.
fn unmapped(statistics: &str) -> u64 {
    let find = |names: [&str; 2]| {
        let lines = statistics.lines().filter_map(|line| line.split_once(' '));
        let mut found = lines.filter(|(name, _)| names.contains(name));
        let value = found.next().and_then(|(_, value)| value.parse().ok());
        value.unwrap_or(0_u64)
    };
    find(["cache", "file"])
        .saturating_sub(find(["shmem", "shmem"]) + find(["mapped_file", "file_mapped"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_nobody_maps_are_told_from_others() {
        let first = "cache 21012480\nrss 1052672\nshmem 4096\nmapped_file 6717440\ntotal_cache 9\n";
        assert_eq!(unmapped(first), 21_012_480 - 4096 - 6_717_440);
        let second = "anon 1\nfile 8192\nkernel 5\nshmem 0\nfile_mapped 4096\n";
        assert_eq!(unmapped(second), 4096);
        assert_eq!(unmapped("file 1\nfile_mapped 4096\n"), 0);
    }
}
