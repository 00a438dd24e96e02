//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)), and which mount it is.
//! Reading is pure; paths are bytes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Asks for a mount's number that is never given twice (`STATX_MNT_ID_UNIQUE` in
/// include/uapi/linux/stat.h, since Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What tells one mount from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its number that is never given twice, where the kernel has one.
    number: Option<u64>,
    /// Its number in the table, and the filesystem's device number: given again once it is gone.
    id: OsString,
    device: OsString,
    /// The filesystem's type.
    kind: OsString,
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
    let there = mounted_at(path)?;
    // The filesystem itself is not asked: it may be one that nobody serves.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let number = match statx(CWD, path, flags, MNT_ID_UNIQUE) {
        Ok(found) if found.stx_mask & MNT_ID_UNIQUE.bits() != 0 => Some(found.stx_mnt_id),
        _ => None,
    };
    Some(Identity {
        number,
        id: there.id,
        device: there.device,
        kind: there.kind,
    })
}

impl Identity {
    /// Where the mount is by now: it may have been moved, or others put on top.
    pub(super) fn find(&self) -> io::Result<Whereabouts> {
        let mountinfo = fs::read(MOUNTINFO)?;
        // The numbers of the table may have been given again, to what somebody else has mounted since.
        let ours = |(_, entry): &(OsString, Entry)| {
            entry.id == self.id && entry.device == self.device && entry.kind == self.kind
        };
        let Some((path, _)) = entries(&mountinfo).find(ours) else {
            return Ok(Whereabouts::Gone);
        };
        let path = PathBuf::from(path);
        Ok(if identity_at(&path).as_ref() == Some(self) {
            Whereabouts::At(path)
        } else {
            Whereabouts::Covered(path)
        })
    }
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its number.
    pub(super) id: OsString,
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

/// Every mount with its path: fields 1, 3 and 5 of a line and, past the dash, 9.
fn entries(mountinfo: &[u8]) -> impl Iterator<Item = (OsString, Entry)> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = unescape(fields.next()?);
        let device = unescape(fields.nth(1)?);
        let at = unescape(fields.nth(1)?);
        let kind = unescape(fields.skip_while(|field| *field != b"-").nth(1)?);
        Some((at, Entry { id, device, kind }))
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
                (text(entry.id), text(entry.kind), text(entry.device))
            })
        };
        let some = |id: &str, kind: &str, device: &str| {
            Some((id.to_owned(), kind.to_owned(), device.to_owned()))
        };
        assert_eq!(at(b"/pool"), some("90", "fuse.poolfs", "0:50"));
        assert_eq!(at(b"/"), some("22", "ext4", "8:1"));
        assert_eq!(at(b"/mnt/a b"), some("92", "fuse.other", "0:52"));
        assert_eq!(at(b"/mnt/\xff\n\\#"), some("93", "tmpfs", "0:53"));
        assert_eq!(at(b"/pool/libs"), None);
    }

    #[test]
    fn mounts_are_told_apart() {
        let proc = identity_at(Path::new("/proc"));
        assert!(proc.is_some());
        assert_eq!(identity_at(Path::new("/proc")), proc);
        assert_ne!(identity_at(Path::new("/")), proc);
        assert_eq!(identity_at(Path::new("/proc/self")), None);
        assert_eq!(identity_at(Path::new("/absent")), None);
        let at = proc.clone().unwrap().find().unwrap();
        assert_eq!(at, Whereabouts::At("/proc".into()));
        let other = Identity {
            number: Some(0),
            ..proc.clone().unwrap()
        };
        assert_eq!(other.find().unwrap(), Whereabouts::Covered("/proc".into()));
        for none in [
            Identity {
                id: "0".into(),
                ..proc.clone().unwrap()
            },
            Identity {
                kind: "fuse.poolfs".into(),
                ..proc.unwrap()
            },
        ] {
            assert_eq!(none.find().unwrap(), Whereabouts::Gone);
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\134b\\"), OsString::from("a\\b\\"));
        assert_eq!(unescape(b"\\9z"), OsString::from("\\9z"));
        assert_eq!(unescape(b"\\777"), OsString::from("\\777"));
    }
}
