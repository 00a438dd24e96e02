//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)), and which mount it is.
//! Reading is pure; paths are bytes.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// Asks for a mount's number that is never given twice (`STATX_MNT_ID_UNIQUE` in
/// include/uapi/linux/stat.h, since Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What tells one mount from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Its number.
    Number(u64),
    /// The filesystem's device number, where the kernel has nothing better: it is given again once
    /// the filesystem is gone.
    Device(OsString),
}

/// Which mount is at `path`, an absolute path without links; the topmost if there are several.
/// `None` when none is, or that cannot be told.
pub(super) fn identity_at(path: &Path) -> Option<Identity> {
    let there = mounted_at(path)?;
    // The filesystem itself is not asked: it may be one that nobody serves.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    match statx(CWD, path, flags, MNT_ID_UNIQUE) {
        Ok(found) if found.stx_mask & MNT_ID_UNIQUE.bits() != 0 => {
            Some(Identity::Number(found.stx_mnt_id))
        }
        _ => Some(Identity::Device(there.device)),
    }
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The filesystem's device number.
    pub(super) device: OsString,
    /// The filesystem's type.
    pub(super) kind: OsString,
}

/// What is mounted at exactly `path`, an absolute path without links; the topmost if there are
/// several. `None` as well where there is no /proc to look into.
pub(super) fn mounted_at(path: &Path) -> Option<Entry> {
    find(&fs::read("/proc/self/mountinfo").ok()?, path)
}

/// Fields 3 and 5 of a line and, past the dash, 9.
fn find(mountinfo: &[u8], path: &Path) -> Option<Entry> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let entry = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = fields.nth(2)?;
        let at = unescape(fields.nth(1)?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (Path::new(&at) == path).then(|| Entry {
            device: unescape(device),
            kind: unescape(kind),
        })
    };
    lines.filter_map(entry).next_back()
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
                (text(entry.kind), text(entry.device))
            })
        };
        let some = |kind: &str, device: &str| Some((kind.to_owned(), device.to_owned()));
        assert_eq!(at(b"/pool"), some("fuse.poolfs", "0:50"));
        assert_eq!(at(b"/"), some("ext4", "8:1"));
        assert_eq!(at(b"/mnt/a b"), some("fuse.other", "0:52"));
        assert_eq!(at(b"/mnt/\xff\n\\#"), some("tmpfs", "0:53"));
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
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\134b\\"), OsString::from("a\\b\\"));
        assert_eq!(unescape(b"\\9z"), OsString::from("\\9z"));
        assert_eq!(unescape(b"\\777"), OsString::from("\\777"));
    }
}
