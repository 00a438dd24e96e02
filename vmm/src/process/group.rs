//! What the control group that this process was started in bounds.
//!
//! Formats: `cgroup-v1/memory.rst` and `cgroup-v2.rst` of the kernel's documentation.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of memory and swap, page tables included, that all processes of this one's control group may
/// have together; `None` where nothing bounds them, or the group is not found where systemd mounts it.
pub(super) fn bound() -> Option<u64> {
    let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
    let (directory, version) = directory(&memberships)?;
    let number = |name: &str| number(&fs::read_to_string(directory.join(name)).ok()?);
    let (memory, swap) = match version {
        Version::One => {
            let memory = number("memory.limit_in_bytes")?;
            let both = number("memory.memsw.limit_in_bytes");
            (memory, both.map(|both| both.saturating_sub(memory)))
        }
        Version::Two => (number("memory.max")?, number("memory.swap.max")),
    };
    let most = host_swap();
    Some(memory.saturating_add(swap.map_or(most, |swap| swap.min(most))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where the group is whose memory is counted, of those that `/proc/PID/cgroup` names.
fn directory(memberships: &str) -> Option<(PathBuf, Version)> {
    let lines = memberships.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    // A hierarchy of version 1 has it, or the one of version 2, which has no name.
    let has = |names: &str| names.split(',').any(|name| name == "memory");
    let find = |is: &dyn Fn(&str) -> bool| {
        let mut found = lines.clone().filter(|(names, _)| is(names));
        found.next().map(|(_, path)| path.trim_start_matches('/'))
    };
    let root = Path::new("/sys/fs/cgroup");
    if let Some(path) = find(&has) {
        return Some((root.join("memory").join(path), Version::One));
    }
    let path = find(&str::is_empty)?;
    Some((root.join(path), Version::Two))
}

/// A limit in bytes; `None` for one that is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn host_swap() -> u64 {
    let host = rustix::system::sysinfo();
    host.totalswap.saturating_mul(host.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_what_the_process_belongs_to() {
        let found =
            |text| directory(text).map(|(path, version)| (path.display().to_string(), version));
        for (text, expected) in [
            (
                "9:name=systemd:/\n4:memory:/a/b\n0::/c\n",
                Some(("/sys/fs/cgroup/memory/a/b", Version::One)),
            ),
            (
                "7:cpu,memory:/x:y\n",
                Some(("/sys/fs/cgroup/memory/x:y", Version::One)),
            ),
            (
                "0::/system.slice/g-1.scope\n",
                Some(("/sys/fs/cgroup/system.slice/g-1.scope", Version::Two)),
            ),
            ("0::/\n", Some(("/sys/fs/cgroup/", Version::Two))),
            ("3:cpuset:/\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(path, version)| (path.to_owned(), version));
            assert_eq!(found(text), expected, "{text:?}");
        }
    }

    #[test]
    fn limits_are_numbers() {
        assert_eq!(number("4096\n"), Some(4096));
        assert_eq!(number("max\n"), None);
    }
}
