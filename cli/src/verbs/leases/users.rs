//! Processes, and the files that they have open in mounts of a store: the mount holds the leases for them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pool_store::holders::processes;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use serde::Serialize;

use crate::output;

/// The type that mounts of a store have.
const KIND: &str = "fuse.poolfs";

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Process {
    pid: u32,
    /// What the kernel calls it; it may have chosen that itself.
    program: String,
    /// When it was started, in seconds since 1970.
    started_at: Option<u64>,
}

/// A process with files open in mounts of a store.
#[derive(Debug, Serialize)]
pub(super) struct User {
    #[serde(flatten)]
    pub(super) process: Process,
    /// What these are, as far as their paths tell.
    pub(super) open: BTreeSet<String>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = output::harmless_line(&self.program);
        write!(f, "{} {program}", self.pid)?;
        match self.started_at {
            Some(since) => write!(f, ", for {},", output::age(since)),
            None => Ok(()),
        }
    }
}

impl Process {
    pub(super) fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let started_at = || {
            let boot = fs::read_to_string("/proc/stat").ok()?;
            let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
            let ticks = start_of(&String::from_utf8_lossy(&read("stat")))?;
            let second = rustix::param::clock_ticks_per_second();
            Some(boot.trim().parse::<u64>().ok()? + ticks / second.max(1))
        };
        let program = read("comm");
        Self {
            pid,
            program: String::from_utf8_lossy(program.trim_ascii_end()).into_owned(),
            started_at: started_at(),
        }
    }
}

/// Ticks from the machine's start to that of a process: field 22 of its `stat` (proc_pid_stat(5)), of which the second is in
/// parentheses and may have any character.
fn start_of(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(19)?.parse().ok()
}

/// Processes with files open in mounts of the store, and the number of those that could not be looked at.
pub(super) fn find(store: &Path) -> Result<(Vec<User>, u64)> {
    let devices = devices_of(store)?;
    let (mut users, mut hidden) = (Vec::new(), 0);
    for pid in processes().context("listing processes")? {
        match open_by(pid, &devices) {
            Ok(open) if open.is_empty() => {}
            Ok(open) => users.push(User {
                process: Process::of(pid),
                open,
            }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    users.sort_by_key(|user| user.process.pid);
    Ok((users, hidden))
}

/// Devices of the mounts of a store.
fn devices_of(store: &Path) -> Result<BTreeSet<u64>> {
    let store =
        fs::canonicalize(store).with_context(|| format!("looking for {}", store.display()))?;
    let table = "/proc/self/mountinfo";
    let table = fs::read(table).with_context(|| format!("reading {table}"))?;
    let mounts = table.split(|byte| *byte == b'\n').filter_map(mount);
    let is_of_store = |source: &PathBuf| fs::canonicalize(source).is_ok_and(|path| path == store);
    let mounts = mounts.filter(|(_, source)| is_of_store(source));
    Ok(mounts.map(|(device, _)| device).collect())
}

/// Device and source of a line of mountinfo (proc_pid_mountinfo(5)) that is a mount of a store.
fn mount(line: &[u8]) -> Option<(u64, PathBuf)> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    // Optional fields end with a hyphen.
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let is_pool = words.next()? == KIND.as_bytes();
    let source = unescaped(words.next()?);
    is_pool.then(|| (device, OsString::from_vec(source).into()))
}

/// Undoes `\040` and the like.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            out.push(byte);
            rest = &after[3..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

/// What a process has open on these devices.
fn open_by(pid: u32, devices: &BTreeSet<u64>) -> io::Result<BTreeSet<String>> {
    let mut open = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?.path();
        // The filesystem itself is not asked: it may be one that nobody serves.
        let Ok(found) = statx(CWD, &entry, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()) else {
            continue;
        };
        if devices.contains(&makedev(found.stx_dev_major, found.stx_dev_minor))
            && let Ok(path) = fs::read_link(&entry)
        {
            open.insert(name_of(&path));
        }
    }
    Ok(open)
}

/// What a path in a mount is of, or the path.
fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(OsStrExt::as_bytes).collect();
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    let named = (0..parts.len()).rev().find_map(|nth| match parts[nth..] {
        [b"images", name, tag, ..] => Some(format!("image/{}:{}", text(name), text(tag))),
        [b"libs", name, version, ..] => Some(format!("lib/{}@{}", text(name), text(version))),
        [b"segments", id] => Some(format!("segment {}", text(id))),
        [b"objects", id] => Some(format!("object {}", text(id))),
        _ => None,
    });
    output::harmless_line(&named.unwrap_or_else(|| path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_a_mount_have_names() {
        for (path, name) in [
            ("/pool/images/hello/v1/map", "image/hello:v1"),
            ("/images/hello/v1/image.elf", "image/hello:v1"),
            ("/srv/images/pool/libs/zlib/1.3/content", "lib/zlib@1.3"),
            ("/pool/segments/0000001f", "segment 0000001f"),
            ("/pool/objects/abc", "object abc"),
            ("/pool", "/pool"),
        ] {
            assert_eq!(name_of(Path::new(path)), name);
        }
    }

    #[test]
    fn mounts_are_known_by_their_type_and_source() {
        let line =
            b"36 35 0:45 / /pool ro,nosuid shared:1 - fuse.poolfs /srv/a\\040store ro,user_id=0";
        assert_eq!(mount(line), Some((makedev(0, 45), "/srv/a store".into())));
        let other = b"36 35 98:0 / / rw - ext4 /dev/root rw";
        assert_eq!(mount(other), None);
        assert_eq!(mount(b""), None);
        assert_eq!(unescaped(b"\\04\\134x\\"), b"\\04\\x\\");
    }

    #[test]
    fn a_process_has_a_start_whatever_it_is_called() {
        let numbers: Vec<String> = (3..40).map(|nth| nth.to_string()).collect();
        let stat = format!("7 (a) b) {}", numbers.join(" "));
        assert_eq!(start_of(&stat), Some(22));
        assert_eq!(start_of("7 (a"), None);
        let me = Process::of(std::process::id());
        assert!(me.started_at.is_some_and(|at| at > 1_600_000_000));
        // It has a line of its own, and no other.
        let liar = Process {
            pid: 7,
            program: "a\n8 poolfs holds\t\x1b[1m".into(),
            started_at: None,
        };
        let shown = "7 a\u{fffd}8 poolfs holds\u{fffd}\u{fffd}[1m";
        assert_eq!(liar.to_string(), shown);
    }
}
