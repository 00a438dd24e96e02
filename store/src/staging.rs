//! Where pages of an upload wait for its commit: in memory, as long as there is room, and in a nameless file beyond that.
//!
//! What is written to a file is there twice until the commit is done, and read again for it, which together cost as much as
//! writing it where it is to stay. So most uploads, which are small, have none. Memory is bounded for all of them together, and
//! for each, so that none takes all: who sends without ever committing has others wait in files, which take disk until the upload is
//! forgotten. Nothing of it is durable, and nothing was acknowledged.

use std::collections::BTreeMap;
use std::mem;
use std::ops::{Bound, Deref, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_core::page::PAGE_SIZE;

use crate::backend::{Backend, SegmentFile};
use crate::error::{Result, StoreError};
use crate::page_digest::Page;
use crate::room::Promised;
use crate::spool::{self, TEMPORARY};

/// As many uploads as may take all the room between them.
const SHARES: u64 = 4;

/// Bytes of most blocks: as many as are sent in one go.
const BLOCK: usize = 1 << 20;

/// Memory for pages of uploads under way, and for files that come whole.
#[derive(Debug)]
pub(crate) struct Memory {
    most: u64,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    /// Bytes that uploads have.
    taken: u64,
    /// Memory of blocks that others had. The kernel would clear it and map it again, page by page, which takes longer than what
    /// it is for. It is given back with the last upload.
    spare: Vec<Vec<u8>>,
}

impl Room {
    fn bytes(&self) -> u64 {
        self.taken + (self.spare.len() * BLOCK) as u64
    }

    /// Takes back what an upload had. Answers with memory of which nothing is to be kept.
    fn free(&mut self, bytes: u64) -> Vec<Vec<u8>> {
        self.taken -= bytes;
        if self.taken == 0 {
            mem::take(&mut self.spare)
        } else {
            Vec::new()
        }
    }
}

impl Memory {
    /// So many bytes, of which an upload has a quarter at most.
    pub(crate) fn of(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            most: bytes,
            room: Mutex::default(),
        })
    }

    /// Bytes that one upload may have.
    pub(crate) fn share(&self) -> u64 {
        self.most / SHARES
    }

    /// Bytes that are taken up.
    pub(crate) fn taken(&self) -> u64 {
        self.room().taken
    }

    /// An empty block with room for so many bytes, if there is that.
    fn block(self: &Arc<Self>, bytes: usize) -> Option<Block> {
        let mut room = self.room();
        if room.taken + bytes as u64 > self.most {
            return None;
        }
        let spare = if bytes == BLOCK {
            room.spare.pop()
        } else {
            None
        };
        room.taken += bytes as u64;
        while room.bytes() > self.most && room.spare.pop().is_some() {}
        drop(room);
        Some(Block {
            content: spare.unwrap_or_else(|| Vec::with_capacity(bytes)),
            bytes,
            memory: Arc::clone(self),
        })
    }

    /// Takes a block's memory back.
    fn give_back(&self, mut content: Vec<u8>, bytes: usize) {
        let mut room = self.room();
        let gone = room.free(bytes as u64);
        let gone = if room.taken == 0 {
            gone
        } else if bytes == BLOCK && room.spare.len() * BLOCK < self.share() as usize {
            content.clear();
            room.spare.push(mem::take(&mut content));
            Vec::new()
        } else {
            Vec::new()
        };
        // Not while others wait.
        drop(room);
        drop((gone, content));
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of uploads that one of them keeps itself.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Share {
    /// Nothing yet.
    pub(crate) fn of(memory: &Arc<Memory>) -> Self {
        Self {
            memory: Arc::clone(memory),
            bytes: 0,
        }
    }

    /// Makes it so many bytes. False, and it stays as it is, when there is no room for that.
    pub(crate) fn grow(&mut self, to: u64) -> bool {
        let memory = &self.memory;
        let more = to.saturating_sub(self.bytes);
        let mut room = memory.room();
        if to > memory.share() || room.taken + more > memory.most {
            return false;
        }
        room.taken += more;
        while room.bytes() > memory.most && room.spare.pop().is_some() {}
        self.bytes += more;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let gone = self.memory.room().free(self.bytes);
        // Not while others wait.
        drop(gone);
    }
}

/// Pages that were sent together.
#[derive(Debug)]
struct Block {
    content: Vec<u8>,
    /// What it counts.
    bytes: usize,
    memory: Arc<Memory>,
}

impl Drop for Block {
    fn drop(&mut self) {
        let content = mem::take(&mut self.content);
        self.memory.give_back(content, self.bytes);
    }
}

/// Some of the bytes that an upload has in memory.
#[derive(Debug)]
pub(crate) struct Staged {
    block: Arc<Block>,
    first: usize,
    length: usize,
}

impl Deref for Staged {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.block.content[self.first..][..self.length]
    }
}

/// The bytes of one upload, one behind the other.
#[derive(Debug)]
pub(crate) struct Staging {
    memory: Arc<Memory>,
    backend: Arc<dyn Backend>,
    /// Disk that uploads are about to write to.
    promised: Arc<Promised>,
    /// Bytes that were handed out.
    end: AtomicU64,
    blocks: Mutex<Blocks>,
    /// What has no room in memory, each byte where it is in all; made when there is any.
    file: Mutex<Option<Arc<dyn SegmentFile>>>,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Blocks {
    by_first: BTreeMap<u64, Arc<Block>>,
    bytes: u64,
}

impl Blocks {
    /// What there is of the bytes from `offset` on, at most `most`: all that one block has, or how many there are before
    /// the next one.
    fn bytes_at(&self, offset: u64, most: usize) -> std::result::Result<Staged, usize> {
        let before = self.by_first.range(..=offset).next_back();
        if let Some((first, block)) = before
            && let Some(left) = (block.content.len() as u64).checked_sub(offset - first)
            && left > 0
        {
            return Ok(Staged {
                block: Arc::clone(block),
                first: (offset - first) as usize,
                length: most.min(left as usize),
            });
        }
        let behind = (Bound::Excluded(offset), Bound::Unbounded);
        let next = self.by_first.range(behind).next();
        Err(next.map_or(most, |(next, _)| {
            usize::try_from(next - offset).map_or(most, |left| most.min(left))
        }))
    }
}

impl Staging {
    /// Nothing yet, in `memory`, or else in a file of `backend`.
    pub(crate) fn new(
        memory: &Arc<Memory>,
        backend: &Arc<dyn Backend>,
        promised: &Arc<Promised>,
    ) -> Self {
        Self {
            memory: Arc::clone(memory),
            backend: Arc::clone(backend),
            promised: Arc::clone(promised),
            end: AtomicU64::new(0),
            blocks: Mutex::default(),
            file: Mutex::default(),
        }
    }

    /// Keeps pages behind all that others have put, one after the other, and says where the first begins. What goes to the file
    /// leaves the room on its disk that segments do.
    pub(crate) fn put(&self, pages: &[&Page]) -> Result<u64> {
        let bytes = pages.len() as u64 * PAGE_SIZE;
        let first = self.end.fetch_add(bytes, Ordering::Relaxed);
        let pieces = pages.chunks(BLOCK / PAGE_SIZE as usize);
        for (pages, first) in pieces.zip((first..).step_by(BLOCK)) {
            if let Some(mut block) = self.block(pages.len() * PAGE_SIZE as usize) {
                for page in pages {
                    block.content.extend_from_slice(page.as_slice());
                }
                self.blocks().by_first.insert(first, Arc::new(block));
            } else {
                let content: Vec<_> = pages.iter().map(|page| page.as_slice()).collect();
                let (backend, file) = (self.backend.as_ref(), self.file()?);
                let content = content.concat();
                spool::write(backend, &self.promised, file.as_ref(), &content, first)?;
            }
        }
        Ok(first)
    }

    /// A block for so many bytes, if there is room in memory.
    fn block(&self, bytes: usize) -> Option<Block> {
        let mut blocks = self.blocks();
        let more = blocks.bytes + bytes as u64;
        if more > self.memory.share() {
            return None;
        }
        let block = self.memory.block(bytes)?;
        blocks.bytes = more;
        Some(block)
    }

    /// Fills `buffer` with what begins at `offset`.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let (mut rest, mut offset) = (buffer, offset);
        while !rest.is_empty() {
            let found = self.blocks().bytes_at(offset, rest.len());
            let length = match &found {
                Ok(staged) => staged.len(),
                Err(length) => *length,
            };
            let (part, others) = rest.split_at_mut(length);
            if let Ok(staged) = found {
                part.copy_from_slice(&staged);
            } else {
                let read = self.file()?.read_exact_at(part, offset);
                read.map_err(|source| StoreError::io("reading", TEMPORARY, source))?;
            }
            rest = others;
            offset += length as u64;
        }
        Ok(())
    }

    /// Those bytes, piece by piece, if all of them are in memory.
    pub(crate) fn at_hand(&self, bytes: Range<u64>) -> Option<Vec<Staged>> {
        let (mut staged, mut offset) = (Vec::new(), bytes.start);
        let blocks = self.blocks();
        while offset < bytes.end {
            let left = usize::try_from(bytes.end - offset).unwrap_or(usize::MAX);
            let piece = blocks.bytes_at(offset, left).ok()?;
            offset += piece.len() as u64;
            staged.push(piece);
        }
        Some(staged)
    }

    fn file(&self) -> Result<Arc<dyn SegmentFile>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match &*file {
            Some(file) => Arc::clone(file),
            None => self.backend.temporary()?,
        };
        Ok(Arc::clone(file.insert(made)))
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::backend::DirectoryBackend;

    /// Keeps temporary files in `directory`, and nothing else.
    fn backend(directory: &Path) -> Arc<dyn Backend> {
        Arc::new(DirectoryBackend::new("", directory, ""))
    }

    fn has_file(staging: &Staging) -> bool {
        staging.file.lock().unwrap().is_some()
    }

    /// A page of one byte.
    fn page(byte: usize) -> Page {
        [byte as u8; PAGE_SIZE as usize]
    }

    fn put(staging: &Staging, pages: &[Page]) -> Result<u64> {
        staging.put(&pages.iter().collect::<Vec<_>>())
    }

    const fn bytes(pages: u64) -> u64 {
        pages * PAGE_SIZE
    }

    proptest! {
        #[test]
        fn what_was_put_is_read_wherever_it_lies(
            most in 0u64..120,
            counts in proptest::collection::vec(0usize..12, 1..6),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let memory = Memory::of(bytes(most));
            let staging = Staging::new(&memory, &backend(directory.path()), &Arc::default());
            let mut all = Vec::new();
            for (nth, count) in counts.iter().enumerate() {
                let pages = vec![page(nth); *count];
                prop_assert_eq!(put(&staging, &pages).unwrap(), all.len() as u64);
                all.extend(pages.concat());
            }
            prop_assert!(memory.taken() <= bytes(most) / SHARES);
            prop_assert_eq!(has_file(&staging), memory.taken() < all.len() as u64);
            for first in (0..=all.len()).step_by(3 * 4096 - 7) {
                for last in (first..=all.len()).step_by(5 * 4096 + 1) {
                    let expected = &all[first..last];
                    let mut found = vec![0; expected.len()];
                    staging.read_exact_at(&mut found, first as u64).unwrap();
                    prop_assert!(found == expected);
                    match staging.at_hand(first as u64..last as u64) {
                        Some(staged) => {
                            let bytes: Vec<_> = staged.iter().flat_map(|staged| staged.iter()).copied().collect();
                            prop_assert!(bytes == expected);
                        }
                        None => prop_assert!(has_file(&staging)),
                    }
                }
            }
            drop(staging);
            prop_assert_eq!(memory.taken(), 0);
        }
    }

    #[test]
    fn uploads_have_a_quarter_each_and_no_more_than_all_together() {
        let directory = tempfile::tempdir().unwrap();
        let backend = backend(directory.path());
        let memory = Memory::of(bytes(40));
        let mut uploads: Vec<_> = (0..6)
            .map(|_| Staging::new(&memory, &backend, &Arc::default()))
            .collect();
        for upload in &uploads {
            for _ in 0..9 {
                put(upload, &[page(7); 3]).unwrap();
            }
        }
        // Three pieces of each have room, and four uploads take nearly all.
        assert_eq!(memory.taken(), bytes(39));
        let in_memory = uploads.iter().map(|upload| upload.blocks().bytes);
        let expected = [9, 9, 9, 9, 3, 0].map(bytes);
        assert_eq!(in_memory.collect::<Vec<_>>(), expected);
        assert!(uploads.iter().all(has_file));
        // What is being read is there until then.
        let staged = uploads[0].at_hand(bytes(3)..bytes(6)).unwrap();
        drop(uploads.remove(0));
        assert_eq!(memory.taken(), bytes(33));
        assert_eq!(*staged[0], *[page(7); 3].concat());
        drop(staged);
        assert_eq!(memory.taken(), bytes(30));
        let next = Staging::new(&memory, &backend, &Arc::default());
        put(&next, &vec![page(8); 10]).unwrap();
        assert_eq!(memory.taken(), bytes(40));
        assert!(!has_file(&next));
        drop((uploads, next));
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn memory_is_used_again_and_given_back_with_the_last_upload() {
        let directory = tempfile::tempdir().unwrap();
        let backend = backend(directory.path());
        let memory = Memory::of(16 * BLOCK as u64);
        let pages = vec![page(1); BLOCK / PAGE_SIZE as usize + 2];
        let spare = || memory.room().spare.len();
        let staging = || Staging::new(&memory, &backend, &Arc::default());
        let (kept, first, second) = (staging(), staging(), staging());
        put(&kept, &pages[..1]).unwrap();
        for _ in 0..3 {
            put(&first, &pages).unwrap();
            put(&second, &pages).unwrap();
        }
        // Small ones are not kept, and no more than a quarter is.
        drop(first);
        assert_eq!(spare(), 3);
        drop(second);
        assert_eq!((spare(), memory.taken()), (4, PAGE_SIZE));
        let third = staging();
        put(&third, &vec![page(2); pages.len()]).unwrap();
        assert_eq!(spare(), 3);
        let mut found = page(0);
        third.read_exact_at(&mut found, BLOCK as u64).unwrap();
        assert_eq!(found, page(2));
        // Together they are never more than there may be.
        let others: Vec<_> = (0..4).map(|_| staging()).collect();
        for upload in &others {
            for _ in 0..4 {
                put(upload, &pages[..BLOCK / PAGE_SIZE as usize]).unwrap();
                assert!(memory.room().bytes() <= memory.most);
            }
        }
        assert_eq!(spare(), 0);
        drop((others, third));
        assert_eq!(spare(), 4);
        drop(kept);
        assert_eq!((spare(), memory.taken()), (0, 0));
    }

    #[test]
    fn what_has_no_room_and_cannot_be_written_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::of(bytes(40));
        let staging = Staging::new(
            &memory,
            &backend(&directory.path().join("absent")),
            &Arc::default(),
        );
        assert_eq!(put(&staging, &vec![page(1); 8]).unwrap(), 0);
        let refused = put(&staging, &[page(2); 3]);
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
        assert_eq!(put(&staging, &[page(3); 2]).unwrap(), bytes(11));
        let mut found = page(0);
        staging.read_exact_at(&mut found, bytes(12)).unwrap();
        assert_eq!((found, memory.taken()), (page(3), bytes(10)));
    }
}
