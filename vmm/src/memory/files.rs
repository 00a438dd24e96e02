//! Files behind private mappings: kept open as long as an area shows them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::descriptors::{self, Own};

/// Most files that a guest may have mapped at once.
const MOST: usize = 512;

/// A file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u32);

impl FileId {
    /// The file number `number`, for tests of what does not look into files.
    #[cfg(test)]
    pub(super) fn numbered(number: u32) -> Self {
        Self(number)
    }
}

/// The files that are mapped. A file counts once, however often it is mapped.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: BTreeMap<FileId, Kept>,
    next: u32,
    own: Own,
}

#[derive(Debug)]
struct Kept {
    file: descriptors::Kept,
    /// Device and inode.
    identity: (u64, u64),
}

impl Files {
    /// Keeps `file` open; the guest may close its descriptor.
    pub(super) fn keep(&mut self, file: BorrowedFd<'_>) -> io::Result<FileId> {
        let stat = rustix::fs::fstat(file)?;
        let identity = (stat.st_dev, stat.st_ino);
        let known = self.open.iter().find(|(_, kept)| kept.identity == identity);
        if let Some((&id, _)) = known {
            return Ok(id);
        }
        if self.open.len() >= MOST {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let file = self.own.keep(file)?;
        let id = FileId(self.next);
        self.next = self.next.wrapping_add(1);
        self.open.insert(id, Kept { file, identity });
        Ok(id)
    }

    /// The descriptors of this process that are not the guest's.
    pub(super) fn own(&self) -> &Own {
        &self.own
    }

    pub(super) fn get(&self, id: FileId) -> Option<BorrowedFd<'_>> {
        self.open.get(&id).map(|kept| kept.file.as_fd())
    }

    /// Closes all but those that are `used`.
    pub(super) fn retain(&mut self, used: impl Fn(FileId) -> bool) {
        self.open.retain(|&id, _| used(id));
    }
}
