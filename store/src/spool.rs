//! A file that comes piece by piece and waits until it is whole: in memory, as long as there is room, and on the disk beyond that.
//!
//! What waits in memory needs no room on the disk before it is known what of it is new. So a file that the pool has is taken in on a disk
//! that has no room for another one.

use std::fs::File;
use std::io;
use std::sync::Arc;

use pool_core::page::PAGE_SIZE;
use rustix::fs::MemfdFlags;

use crate::Store;
use crate::backend::{Backend, SegmentFile};
use crate::error::{Result, StoreError};
use crate::room::{self, Promised};
use crate::staging::Share;

/// What a file is called that has no name.
pub(crate) const TEMPORARY: &str = "an upload's temporary file";

/// Bytes that are moved to the disk at a time.
const PIECE: u64 = 1 << 20;

/// A nameless file, which goes with this value. In memory it is a part of what uploads may have there; beside the store it leaves the room
/// on the disk that segments do.
#[derive(Debug)]
pub struct Spool {
    backend: Arc<dyn Backend>,
    promised: Arc<Promised>,
    place: Place,
    end: u64,
}

/// Where a spool's bytes are.
#[derive(Debug)]
enum Place {
    Memory { file: File, share: Share },
    Disk(Arc<dyn SegmentFile>),
}

impl Store {
    /// A file without anything in it, to which so many bytes are to come, or more. What has no room in memory then is on the disk at once
    /// and not moved there.
    pub fn spool(&self, expected: u64) -> Result<Spool> {
        let backend = Arc::clone(&self.view.backend);
        let place = if expected > self.upload_memory.share() {
            Place::Disk(backend.temporary()?)
        } else {
            let file = rustix::fs::memfd_create("upload", MemfdFlags::CLOEXEC);
            let file = file.map_err(|errno| StoreError::io("making", TEMPORARY, errno.into()))?;
            Place::Memory {
                file: file.into(),
                share: Share::of(&self.upload_memory),
            }
        };
        Ok(Spool {
            backend,
            promised: Arc::clone(&self.promised),
            place,
            end: 0,
        })
    }
}

impl Spool {
    /// Adds bytes at the end.
    ///
    /// # Errors
    ///
    /// When they cannot be written, or there is room for them neither in memory nor on the disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.end + bytes.len() as u64;
        if let Place::Memory { file, share } = &mut self.place {
            // Memory is taken by whole pages.
            if share.grow(end.next_multiple_of(PAGE_SIZE)) {
                let written = file.write_all_at(bytes, self.end);
                written.map_err(|source| StoreError::io("writing", TEMPORARY, source))?;
                self.end = end;
                return Ok(());
            }
            self.place = Place::Disk(self.moved_to_disk()?);
        }
        if let Place::Disk(file) = &self.place {
            self.write_to(file.as_ref(), bytes, self.end)?;
        }
        self.end = end;
        Ok(())
    }

    /// A file on the disk with what came so far.
    fn moved_to_disk(&self) -> Result<Arc<dyn SegmentFile>> {
        let to = self.backend.temporary()?;
        let from = self.segment_file();
        let mut piece = vec![0; self.end.min(PIECE) as usize];
        for offset in (0..self.end).step_by(PIECE as usize) {
            let piece = &mut piece[..(self.end - offset).min(PIECE) as usize];
            from.read_exact_at(piece, offset)
                .map_err(|source| StoreError::io("reading", TEMPORARY, source))?;
            self.write_to(to.as_ref(), piece, offset)?;
        }
        Ok(to)
    }

    fn write_to(&self, file: &dyn SegmentFile, bytes: &[u8], offset: u64) -> Result<()> {
        let backend = self.backend.as_ref();
        write(backend, &self.promised, file, bytes, offset)
    }

    fn segment_file(&self) -> &dyn SegmentFile {
        match &self.place {
            Place::Memory { file, .. } => file,
            Place::Disk(file) => file.as_ref(),
        }
    }

    /// The file, which nobody else has.
    ///
    /// # Errors
    ///
    /// When the store keeps its temporary files in none.
    pub fn file(&self) -> Result<&File> {
        let none = || StoreError::io("reading", TEMPORARY, io::ErrorKind::Unsupported.into());
        self.segment_file().file().ok_or_else(none)
    }
}

/// Writes to a temporary file what leaves enough room on its disk.
pub(crate) fn write(
    backend: &dyn Backend,
    promised: &Arc<Promised>,
    file: &dyn SegmentFile,
    bytes: &[u8],
    offset: u64,
) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let promise = promised.add(bytes.len() as u64, || backend.free_for_temporary())?;
    let _promise = promise.ok_or_else(|| room::none_left(TEMPORARY))?;
    let written = file.write_all_at(bytes, offset);
    written.map_err(|source| StoreError::io("writing", TEMPORARY, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;
    use crate::testing::{self, SEGMENT_BYTES, content};

    const SHARE: u64 = 10 * PAGE_SIZE;

    /// A store in which uploads have four shares of memory.
    fn open(directory: &std::path::Path) -> Store {
        let options = StoreOptions {
            upload_memory: 4 * SHARE,
            ..testing::options(SEGMENT_BYTES)
        };
        testing::open_with(directory, options)
    }

    fn is_in_memory(spool: &Spool) -> bool {
        matches!(spool.place, Place::Memory { .. })
    }

    #[test]
    fn a_file_is_in_memory_while_there_is_room_and_on_the_disk_beyond() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let bytes = content(1, 30);
        let mut spool = store.spool(0).unwrap();
        let mut end = 0;
        for length in [0, 1, 4095, 3 * 4096 + 7, 6 * 4096 - 7, 1, 0, 17 * 4096 + 5] {
            spool.write(&bytes[end..][..length]).unwrap();
            end += length;
            assert_eq!(is_in_memory(&spool), end as u64 <= SHARE, "{end}");
            let taken = if is_in_memory(&spool) {
                (end as u64).next_multiple_of(PAGE_SIZE)
            } else {
                0
            };
            assert_eq!(store.upload_memory(), taken, "{end}");
            let mut found = vec![0; end];
            let file = spool.file().unwrap();
            assert_eq!(file.metadata().unwrap().len(), end as u64);
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found == bytes[..end], "{end}");
        }
    }

    #[test]
    fn files_have_a_share_each_and_what_has_no_room_there_needs_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let bytes = content(1, 10);
        let spools: Vec<_> = (0..5)
            .map(|_| {
                let mut spool = store.spool(SHARE).unwrap();
                spool.write(&bytes).unwrap();
                spool
            })
            .collect();
        let in_memory: Vec<_> = spools.iter().map(is_in_memory).collect();
        assert_eq!(in_memory, [true, true, true, true, false]);
        assert_eq!(store.upload_memory(), 4 * SHARE);
        drop(spools);
        assert_eq!(store.upload_memory(), 0);
        assert!(!is_in_memory(&store.spool(SHARE + 1).unwrap()));
    }
}
