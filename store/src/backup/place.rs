//! The directory of a backup: what its files are called, and who may have it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pool_core::extent::SegmentId;
use rustix::fs::{FlockOperation, flock};

use super::unusable;
use crate::backend::sync_directory;
use crate::catalogue::Catalogue;
use crate::error::{Result, StoreError};
use crate::format::{SegmentRecord, SegmentState};

const CATALOGUE: &str = "catalogue";
const NEW_CATALOGUE: &str = "catalogue.new";
const SEGMENTS: &str = "segments";

/// What to do about a damaged catalogue.
const ADVICE: &str = "take another copy of the backup";

/// A backup's directory, locked.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    _lock: File,
}

impl Place {
    /// Takes the directory of a backup that is to be made of the store `identity`. One that is absent or empty becomes one.
    pub(super) fn for_writing(root: &Path, identity: [u8; 16]) -> Result<Self> {
        let segments = root.join(SEGMENTS);
        fs::create_dir_all(root).map_err(|error| StoreError::io("creating", root, error))?;
        let place = Self::lock(root, FlockOperation::NonBlockingLockExclusive)?;
        match Catalogue::open(&place.catalogue(), ADVICE)? {
            Some(catalogue) if catalogue.header().identity != identity => {
                let why = "is a backup of another store: give each store a directory of its own";
                return Err(unusable(root, why));
            }
            Some(_) => {}
            None if place.is_vacant()? => {}
            None => {
                let why = "is not empty and holds no backup: name an empty or a new directory";
                return Err(unusable(root, why));
            }
        }
        fs::create_dir_all(&segments)
            .map_err(|error| StoreError::io("creating", segments, error))?;
        Ok(place)
    }

    /// Takes the directory of a backup that is there, and its catalogue.
    pub(super) fn for_reading(root: &Path) -> Result<(Self, Catalogue)> {
        let none = || {
            unusable(
                root,
                "has no catalogue: it is no backup, or its first one did not end",
            )
        };
        // A directory of something else may be in use, which is nobody's concern.
        let there = fs::read_dir(root).map_err(|error| StoreError::io("opening", root, error))?;
        if !there.flatten().any(|entry| entry.file_name() == CATALOGUE) {
            return Err(none());
        }
        let place = Self::lock(root, FlockOperation::NonBlockingLockShared)?;
        let catalogue = Catalogue::open(&place.catalogue(), ADVICE)?.ok_or_else(none)?;
        Ok((place, catalogue))
    }

    fn lock(root: &Path, operation: FlockOperation) -> Result<Self> {
        let handle = File::open(root).map_err(|error| StoreError::io("opening", root, error))?;
        match flock(&handle, operation) {
            Ok(()) => Ok(Self {
                root: root.into(),
                _lock: handle,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(unusable(
                root,
                "is in use by another process: wait until that has ended",
            )),
            Err(errno) => Err(StoreError::io("locking", root, errno.into())),
        }
    }

    /// Nothing is there, or what a first backup that was cut short left.
    fn is_vacant(&self) -> Result<bool> {
        let error = |error| StoreError::io("reading", &self.root, error);
        for entry in fs::read_dir(&self.root).map_err(error)? {
            let entry = entry.map_err(error)?;
            let is_ours = match entry.file_name().to_str() {
                Some(NEW_CATALOGUE | "lost+found") => true,
                Some(SEGMENTS) => self.copies()?.iter().all(|(_, stem)| stem.is_some()),
                _ => false,
            };
            if !is_ours {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn catalogue(&self) -> PathBuf {
        self.root.join(CATALOGUE)
    }

    /// Where the next catalogue is written.
    pub(super) fn new_catalogue(&self) -> PathBuf {
        self.root.join(NEW_CATALOGUE)
    }

    /// The copy of a segment.
    pub(super) fn segment(&self, stem: &str) -> PathBuf {
        self.root.join(SEGMENTS).join(format!("{stem}.seg"))
    }

    /// The list of a copy's pages.
    pub(super) fn pages(&self, stem: &str) -> PathBuf {
        self.root.join(SEGMENTS).join(format!("{stem}.pages"))
    }

    /// Where a list is written.
    pub(super) fn new_pages(&self, stem: &str) -> PathBuf {
        self.root.join(SEGMENTS).join(format!("{stem}.pages.new"))
    }

    /// Makes the names of copies durable.
    pub(super) fn sync_copies(&self) -> Result<()> {
        sync_directory(&self.root.join(SEGMENTS))
    }

    /// Puts the next catalogue in the place of the former one.
    pub(super) fn take_catalogue(&self) -> Result<()> {
        let path = self.catalogue();
        fs::rename(self.new_catalogue(), &path)
            .map_err(|error| StoreError::io("writing", path, error))?;
        sync_directory(&self.root)
    }

    /// Removes all copies but those of `kept`. Files of other names stay.
    pub(super) fn prune(&self, kept: &BTreeSet<String>) -> Result<()> {
        for (path, stem) in self.copies()? {
            if stem.is_some_and(|stem| !kept.contains(&stem)) {
                fs::remove_file(&path).map_err(|error| StoreError::io("removing", path, error))?;
            }
        }
        Ok(())
    }

    /// The files of the directory of copies, and what copy each belongs to.
    fn copies(&self) -> Result<Vec<(PathBuf, Option<String>)>> {
        let path = self.root.join(SEGMENTS);
        let error = |error| StoreError::io("reading", &path, error);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.map_err(error)?,
        };
        entries
            .map(|entry| {
                let entry = entry.map_err(error)?;
                let stem = entry
                    .file_name()
                    .to_str()
                    .and_then(stem_of)
                    .map(str::to_owned);
                Ok((entry.path(), stem))
            })
            .collect()
    }
}

/// What the copy of a segment is called. One of a segment that may go on growing belongs to one state of the store.
pub(super) fn stem(id: SegmentId, record: &SegmentRecord, commits: u64) -> String {
    match record.state {
        SegmentState::Open => format!("{id}-{commits:016x}"),
        SegmentState::Sealed | SegmentState::Retired => id.to_string(),
    }
}

/// The stem of a copy's file.
fn stem_of(name: &str) -> Option<&str> {
    let ends = [".seg", ".pages", ".pages.new"];
    let stem = ends.into_iter().find_map(|end| name.strip_suffix(end))?;
    let (id, commits) = stem.split_at_checked(8)?;
    let is_hex = |text: &str| {
        text.bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_open = |commits: &str| commits.len() == 16 && is_hex(commits);
    let fits = is_hex(id) && (commits.is_empty() || commits.strip_prefix('-').is_some_and(is_open));
    fits.then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SegmentKind;

    #[test]
    fn files_of_copies_are_told_from_others() {
        let mut record = SegmentRecord {
            kind: SegmentKind::Dense,
            state: SegmentState::Sealed,
            used: 1,
            capacity: 512,
        };
        let sealed = stem(SegmentId(10), &record, 255);
        record.state = SegmentState::Open;
        let open = stem(SegmentId(10), &record, 255);
        assert_eq!(
            (&*sealed, &*open),
            ("0000000a", "0000000a-00000000000000ff")
        );
        for stem in [sealed, open] {
            for end in ["seg", "pages", "pages.new"] {
                assert_eq!(stem_of(&format!("{stem}.{end}")), Some(&*stem));
            }
            assert_eq!(stem_of(&format!("{stem}.sea")), None);
            assert_eq!(stem_of(&format!("x{stem}.seg")), None);
        }
        for name in [
            "notes.seg",
            "0000000A.seg",
            "0000000a-1.seg",
            ".seg",
            "0000000é.seg",
        ] {
            assert_eq!(stem_of(name), None, "{name}");
        }
    }
}
