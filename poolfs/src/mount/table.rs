//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)), and which mount it is.
//! Reading is pure; paths are bytes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::statmount;

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Asks for a mount's number that is never given twice (`STATX_MNT_ID_UNIQUE` in
/// include/uapi/linux/stat.h, since Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What tells one mount from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Its number that is never given twice.
    Number(u64),
    /// What the table says of it, where there is no such number: a later mount may be given the same.
    Entry(Entry),
}

/// Where a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Nowhere that can be seen from here.
    Gone,
    /// At this path, topmost.
    At(PathBuf),
    /// At this path, which leads to another mount.
    Covered(PathBuf),
}

/// Which mount is at `path`, an absolute path without links; the topmost if there are several.
/// `None` when none is, or that cannot be told.
pub(super) fn identity_at(path: &Path) -> Option<Identity> {
    let number = number_at(path, MNT_ID_UNIQUE);
    match number.map(|number| (number, statmount::mount_point(number))) {
        Some((number, Ok(at))) => (at.as_deref() == Some(path)).then_some(Identity::Number(number)),
        _ => mounted_at(path).map(Identity::Entry),
    }
}

/// The number of the mount that `path` leads into: `kind` says which one.
fn number_at(path: &Path, kind: StatxFlags) -> Option<u64> {
    // The filesystem itself is not asked: it may be one that nobody serves.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, kind).ok()?;
    (found.stx_mask & kind.bits() != 0).then_some(found.stx_mnt_id)
}

impl Identity {
    /// Where the mount is by now: it may have been moved, or others put on top.
    pub(super) fn find(&self) -> io::Result<Whereabouts> {
        let path = match self {
            Self::Number(number) => statmount::mount_point(*number)?,
            Self::Entry(entry) => {
                let mountinfo = fs::read(MOUNTINFO)?;
                let mut all = entries(&mountinfo);
                all.find_map(|(path, other)| (other == *entry).then(|| path.into()))
            }
        };
        let Some(path) = path else {
            return Ok(Whereabouts::Gone);
        };
        Ok(if self.is_at(&path) {
            Whereabouts::At(path)
        } else {
            Whereabouts::Covered(path)
        })
    }

    fn is_at(&self, path: &Path) -> bool {
        match self {
            Self::Number(number) => number_at(path, MNT_ID_UNIQUE) == Some(*number),
            Self::Entry(entry) => {
                // Another mount may be on top of a parent. Before Linux 5.8 that is not told.
                let leads_to_it = number_at(path, StatxFlags::MNT_ID)
                    .is_none_or(|number| entry.id == *number.to_string());
                leads_to_it && mounted_at(path).as_ref() == Some(entry)
            }
        }
    }
}

/// Whether something is mounted inside the topmost mount at `path`, an absolute path without links.
/// False as well where there is no /proc to look into.
pub(super) fn holds_others(path: &Path) -> bool {
    let mountinfo = fs::read(MOUNTINFO).unwrap_or_default();
    let there = find(&mountinfo, path);
    there.is_some_and(|there| entries(&mountinfo).any(|(_, entry)| entry.parent == there.id))
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its number.
    pub(super) id: OsString,
    /// The number of the mount that it is in.
    pub(super) parent: OsString,
    /// The filesystem's device number.
    pub(super) device: OsString,
    /// The filesystem's type.
    pub(super) kind: OsString,
}

/// What is mounted at exactly `path`, an absolute path without links; the topmost if there are
/// several. `None` as well where there is no /proc to look into.
pub(super) fn mounted_at(path: &Path) -> Option<Entry> {
    find(&fs::read(MOUNTINFO).ok()?, path)
}

fn find(mountinfo: &[u8], path: &Path) -> Option<Entry> {
    let there = entries(mountinfo).filter(|(at, _)| Path::new(at) == path);
    there.last().map(|(_, entry)| entry)
}

/// Every mount with its path: fields 1, 2, 3 and 5 of a line and, past the dash, 9.
fn entries(mountinfo: &[u8]) -> impl Iterator<Item = (OsString, Entry)> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = unescape(fields.next()?);
        let parent = unescape(fields.next()?);
        let device = unescape(fields.next()?);
        let at = unescape(fields.nth(1)?);
        let kind = unescape(fields.skip_while(|field| *field != b"-").nth(1)?);
        let entry = Entry {
            id,
            parent,
            device,
            kind,
        };
        Some((at, entry))
    })
}

/// Undoes the octal escapes (`mangle_path` in the kernel's fs/seq_file.c).
fn unescape(text: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn the_topmost_mount_at_a_path_counts() {
        let mountinfo = b"\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            90 22 0:50 / /pool ro,nosuid - fuse.poolfs /var/lib/pool ro,user_id=0\n\
            91 22 0:51 / /mnt/a\\040b rw master:2 - tmpfs tmpfs rw\n\
            92 22 0:52 / /mnt/a\\040b rw - fuse.other x rw\n\
            93 22 0:53 / /mnt/\xff\\012\\134\\043 rw shared:1 master:2 - tmpfs \xfe rw\n";
        let at = |path: &[u8]| {
            find(mountinfo, Path::new(OsStr::from_bytes(path))).map(|entry| {
                let text = |field: OsString| field.into_string().unwrap();
                let parent = text(entry.parent);
                (text(entry.id), parent, text(entry.kind), text(entry.device))
            })
        };
        let some = |id: &str, parent: &str, kind: &str, device: &str| {
            Some((id.into(), parent.into(), kind.into(), device.into()))
        };
        assert_eq!(at(b"/pool"), some("90", "22", "fuse.poolfs", "0:50"));
        assert_eq!(at(b"/"), some("22", "1", "ext4", "8:1"));
        assert_eq!(at(b"/mnt/a b"), some("92", "22", "fuse.other", "0:52"));
        assert_eq!(at(b"/mnt/\xff\n\\#"), some("93", "22", "tmpfs", "0:53"));
        assert_eq!(at(b"/pool/libs"), None);
    }

    #[test]
    fn mounts_are_told_apart() {
        let proc = Path::new("/proc");
        let entry = mounted_at(proc).unwrap();
        let other = |id: &str, kind: &str| Entry {
            id: id.into(),
            kind: kind.into(),
            ..entry.clone()
        };
        let known = identity_at(proc).unwrap();
        assert_eq!(identity_at(proc), Some(known.clone()));
        assert_ne!(identity_at(Path::new("/")), Some(known.clone()));
        assert_eq!(identity_at(Path::new("/proc/self")), None);
        assert_eq!(identity_at(Path::new("/absent")), None);
        for identity in [known, Identity::Entry(entry.clone())] {
            assert_eq!(identity.find().unwrap(), Whereabouts::At(proc.into()));
        }
        for none in [other("0", "proc"), other(entry.id.to_str().unwrap(), "x")] {
            assert_eq!(Identity::Entry(none).find().unwrap(), Whereabouts::Gone);
        }
        if let Some(last) = number_at(proc, MNT_ID_UNIQUE) {
            // Given to nobody yet, and not for a long time.
            let none = Identity::Number(last + (1 << 40)).find();
            assert_eq!(none.unwrap(), Whereabouts::Gone);
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\134b\\"), OsString::from("a\\b\\"));
        assert_eq!(unescape(b"\\9z"), OsString::from("\\9z"));
        assert_eq!(unescape(b"\\777"), OsString::from("\\777"));
    }
}
