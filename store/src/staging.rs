//! Where pages of an upload wait for its commit: in memory, as long as there is room, and in a nameless file beyond that.
//!
//! What is written to a file is there twice until the commit is done, and read again for it, which together cost as much as
//! writing it where it is to stay. So most uploads, which are small, have none. Memory is bounded for all of them together, and
//! for each, so that none takes all: who sends without ever committing makes others slower, and no more. Nothing of it is
//! durable, and nothing was acknowledged.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, SegmentFile};
use crate::error::{Result, StoreError};

/// As many uploads as may take all the room between them.
const SHARES: u64 = 4;

/// What the file is called that has no name.
const TEMPORARY: &str = "an upload's temporary file";

/// Memory for pages of uploads under way.
#[derive(Debug)]
pub(crate) struct Memory {
    most: u64,
    taken: AtomicU64,
}

impl Memory {
    /// So many bytes, of which an upload has a quarter at most.
    pub(crate) fn of(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            most: bytes,
            taken: AtomicU64::new(0),
        })
    }

    /// Bytes that are taken up.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Room for `content`, which it is given back with.
    fn keep(self: &Arc<Self>, content: Vec<u8>) -> std::result::Result<Block, Vec<u8>> {
        let bytes = content.len() as u64;
        let more = |taken: u64| Some(taken.checked_add(bytes)?).filter(|taken| *taken <= self.most);
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        match taken {
            Ok(_) => Ok(Block {
                content: content.into_boxed_slice(),
                memory: Arc::clone(self),
            }),
            Err(_) => Err(content),
        }
    }
}

/// Pages that were sent together.
#[derive(Debug)]
struct Block {
    content: Box<[u8]>,
    memory: Arc<Memory>,
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = self.content.len() as u64;
        self.memory.taken.fetch_sub(bytes, Ordering::Relaxed);
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
    pub(crate) fn new(memory: &Arc<Memory>, backend: &Arc<dyn Backend>) -> Self {
        Self {
            memory: Arc::clone(memory),
            backend: Arc::clone(backend),
            end: AtomicU64::new(0),
            blocks: Mutex::default(),
            file: Mutex::default(),
        }
    }

    /// Keeps `content` behind all that others have put, and says where it begins.
    pub(crate) fn put(&self, content: Vec<u8>) -> Result<u64> {
        let bytes = content.len() as u64;
        let first = self.end.fetch_add(bytes, Ordering::Relaxed);
        if let Err(content) = self.keep(first, content) {
            let written = self.file()?.write_all_at(&content, first);
            written.map_err(|source| StoreError::io("writing", TEMPORARY, source))?;
        }
        Ok(first)
    }

    /// Keeps it in memory if there is room.
    fn keep(&self, first: u64, content: Vec<u8>) -> std::result::Result<(), Vec<u8>> {
        let mut blocks = self.blocks();
        let bytes = blocks.bytes + content.len() as u64;
        if bytes > self.memory.most / SHARES {
            return Err(content);
        }
        let block = self.memory.keep(content)?;
        blocks.bytes = bytes;
        blocks.by_first.insert(first, Arc::new(block));
        Ok(())
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

    /// The `bytes` that begin at `offset`, if they are in memory in one piece.
    pub(crate) fn at_hand(&self, offset: u64, bytes: usize) -> Option<Staged> {
        let found = self.blocks().bytes_at(offset, bytes).ok();
        found.filter(|staged| staged.len() == bytes)
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

    proptest! {
        #[test]
        fn what_was_put_is_read_wherever_it_lies(
            most in 0u64..400,
            lengths in proptest::collection::vec(0usize..60, 1..12),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let memory = Memory::of(most);
            let staging = Staging::new(&memory, &backend(directory.path()));
            let mut all = Vec::new();
            for (nth, length) in lengths.iter().enumerate() {
                let content = vec![nth as u8 + 1; *length];
                prop_assert_eq!(staging.put(content.clone()).unwrap(), all.len() as u64);
                all.extend(content);
            }
            prop_assert!(memory.taken() <= most / SHARES);
            prop_assert_eq!(has_file(&staging), memory.taken() < all.len() as u64);
            for first in (0..=all.len()).step_by(7) {
                for last in (first..=all.len()).step_by(5) {
                    let expected = &all[first..last];
                    let mut found = vec![0; expected.len()];
                    staging.read_exact_at(&mut found, first as u64).unwrap();
                    prop_assert_eq!(&found, expected);
                    let is_of_one = expected.iter().all(|byte| *byte == expected[0]);
                    match staging.at_hand(first as u64, expected.len()) {
                        Some(staged) => prop_assert_eq!(&*staged, expected),
                        None => prop_assert!(has_file(&staging) || !is_of_one || expected.is_empty()),
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
        let memory = Memory::of(400);
        let mut uploads: Vec<_> = (0..6).map(|_| Staging::new(&memory, &backend)).collect();
        for upload in &uploads {
            for _ in 0..9 {
                upload.put(vec![7; 30]).unwrap();
            }
        }
        // Three pieces of each have room, and four uploads take nearly all.
        assert_eq!(memory.taken(), 390);
        let in_memory = uploads.iter().map(|upload| upload.blocks().bytes);
        assert_eq!(in_memory.collect::<Vec<_>>(), [90, 90, 90, 90, 30, 0]);
        assert!(uploads.iter().all(has_file));
        // What is being read is there until then.
        let staged = uploads[0].at_hand(30, 30).unwrap();
        drop(uploads.remove(0));
        assert_eq!((memory.taken(), &*staged), (330, &[7; 30][..]));
        drop(staged);
        assert_eq!(memory.taken(), 300);
        let next = Staging::new(&memory, &backend);
        next.put(vec![8; 100]).unwrap();
        assert_eq!(memory.taken(), 400);
        assert!(!has_file(&next));
        drop((uploads, next));
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn what_has_no_room_and_cannot_be_written_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::of(40);
        let staging = Staging::new(&memory, &backend(&directory.path().join("absent")));
        assert_eq!(staging.put(vec![1; 8]).unwrap(), 0);
        let refused = staging.put(vec![2; 3]);
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
        assert_eq!(staging.put(vec![3; 2]).unwrap(), 11);
        let mut found = [0; 2];
        staging.read_exact_at(&mut found, 11).unwrap();
        assert_eq!((found, memory.taken()), ([3; 2], 10));
    }
}
