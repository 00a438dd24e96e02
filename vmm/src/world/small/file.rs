//! The files as they are opened: memory with what was true at that moment.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use pool_core::PAGE_SIZE;
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;

/// What is larger is large. Those are bounded together, since a guest shapes what `maps` says; others take no more than
/// whatever else a guest may have open.
const LARGE: u64 = PAGE_SIZE;
/// Bytes of large files that a guest may have, and how many of them.
const MOST_BYTES: u64 = 16 << 20;
const MOST_FILES: usize = 64;

/// Whether a file may be opened with `flags`: it is there, and only to be read.
pub(crate) fn may_open(flags: OFlags) -> Result<(), Errno> {
    if flags.contains(OFlags::CREATE | OFlags::EXCL) {
        Err(Errno::EXIST)
    } else if flags.contains(OFlags::DIRECTORY) {
        Err(Errno::NOTDIR)
    } else if flags & OFlags::ACCMODE != OFlags::RDONLY {
        Err(Errno::ACCESS)
    } else {
        Ok(())
    }
}

/// The same of a device, which may be written, too.
pub(crate) fn may_open_device(flags: OFlags) -> Result<(), Errno> {
    may_open(flags - OFlags::ACCMODE)
}

/// A new file with `content` that cannot be changed, which has the lowest number that is free. A large one can be made
/// smaller, which [`Large`] does.
pub(crate) fn open(content: &[u8], close_on_exec: bool) -> Result<OwnedFd, Errno> {
    let mut flags = MemfdFlags::ALLOW_SEALING;
    if close_on_exec {
        flags |= MemfdFlags::CLOEXEC;
    }
    let file = rustix::fs::memfd_create(c"file", flags)?;
    let mut done = 0;
    while done < content.len() {
        match rustix::io::pwrite(&file, &content[done..], done as u64)? {
            0 => return Err(Errno::IO),
            written => done += written,
        }
    }
    let mut seals = SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    if !is_large(content.len() as u64) {
        seals |= SealFlags::SHRINK;
    }
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn is_large(length: u64) -> bool {
    length > LARGE
}

/// The large files that a guest has opened, and may have open still. They are the host's memory, and nobody says when
/// it lets go of them: when they are too much, the oldest become empty.
#[derive(Debug, Default)]
pub(crate) struct Large {
    files: VecDeque<(OwnedFd, u64)>,
    bytes: u64,
}

impl Large {
    /// A file with `length` bytes is to be among them.
    pub(crate) fn wants(length: usize) -> bool {
        is_large(length as u64)
    }

    /// Takes `file`, which has `length` bytes; those that it let go for that.
    pub(crate) fn take(&mut self, file: OwnedFd, length: usize) -> Vec<OwnedFd> {
        let length = length as u64;
        self.files.push_back((file, length));
        self.bytes += length;
        let mut gone = Vec::new();
        while (self.bytes > MOST_BYTES && self.files.len() > 1) || self.files.len() > MOST_FILES {
            let Some((file, length)) = self.files.pop_front() else {
                break;
            };
            self.bytes -= length;
            // Nobody can have sealed it against that.
            let _ = rustix::fs::ftruncate(&file, 0);
            gone.push(file);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_can_be_read_alone() {
        assert_eq!(may_open(OFlags::RDONLY | OFlags::CLOEXEC), Ok(()));
        assert_eq!(may_open(OFlags::RDONLY | OFlags::CREATE), Ok(()));
        assert_eq!(may_open(OFlags::RDWR), Err(Errno::ACCESS));
        assert_eq!(may_open(OFlags::CREATE | OFlags::EXCL), Err(Errno::EXIST));
        assert_eq!(may_open(OFlags::DIRECTORY), Err(Errno::NOTDIR));
        assert_eq!(may_open_device(OFlags::RDWR | OFlags::TRUNC), Ok(()));
        assert_eq!(may_open_device(OFlags::DIRECTORY), Err(Errno::NOTDIR));
        let file = open(b"said\n", true).unwrap();
        assert_eq!(rustix::io::write(&file, b"x"), Err(Errno::PERM));
        for length in [0, 9] {
            assert_eq!(rustix::fs::ftruncate(&file, length), Err(Errno::PERM));
        }
        let mut read = [0; 9];
        assert_eq!(rustix::io::read(&file, &mut read), Ok(5));
        assert_eq!(&read[..5], b"said\n");
    }

    #[test]
    fn large_files_are_bounded_together() {
        let length = (MOST_BYTES / 4) as usize;
        let mut large = Large::default();
        let files: Vec<_> = (0..6)
            .map(|_| {
                let file = open(&vec![b'x'; length], true).unwrap();
                assert_eq!(rustix::fs::ftruncate(&file, MOST_BYTES), Err(Errno::PERM));
                large.take(file.try_clone().unwrap(), length);
                file
            })
            .collect();
        let sizes: Vec<_> = files
            .iter()
            .map(|file| rustix::fs::fstat(file).unwrap().st_size as usize)
            .collect();
        assert_eq!(sizes, [0, 0, length, length, length, length]);
        for _ in 0..MOST_FILES {
            let file = open(b"", true).unwrap();
            large.take(file, 0);
        }
        assert_eq!((large.files.len(), large.bytes), (MOST_FILES, 0));
        assert!(Large::wants(length) && !Large::wants(LARGE as usize));
    }
}
