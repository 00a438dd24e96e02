//! The directory of a backup: what its files are called, and who may have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pool_core::extent::SegmentId;
use rustix::fs::{FlockOperation, flock};

use super::unusable;
use crate::backend::sync_directory;
use crate::catalogue::Catalogue;
use crate::directory;
use crate::error::{Result, StoreError};

const CATALOGUE: &str = "catalogue";
const NEW_CATALOGUE: &str = "catalogue.new";
const SEGMENTS: &str = "segments";

/// What to do about a damaged catalogue.
const ADVICE: &str = "take another copy of the backup";

/// How the files of a copy end, and of one in the making.
const SEGMENT: &str = ".seg";
const PAGES: &str = ".pages";
const NEW_SEGMENT: &str = ".seg.new";
const NEW_PAGES: &str = ".pages.new";

/// The segment of a copy, and what the copy is called.
type Stem = (SegmentId, String);

/// A backup's directory, locked.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    _lock: File,
}

impl Place {
    /// Takes the directory of a backup that is to be made of the store `identity`, which is in the directory `store`, and
    /// the catalogue of its former one. One that is absent or empty becomes a backup's; who may look into the store may look
    /// into one that is made.
    pub(super) fn for_writing(
        root: &Path,
        identity: [u8; 16],
        store: &Path,
    ) -> Result<(Self, Option<Catalogue>)> {
        if directory::is_within(root, store)? {
            let why = "is in the store that is to be backed up: name a directory elsewhere";
            return Err(unusable(root, why));
        }
        directory::make(root, directory::mode(store)?)?;
        let place = Self::lock(root, FlockOperation::NonBlockingLockExclusive)?;
        let former = Catalogue::open(&place.catalogue(), ADVICE)?;
        match &former {
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
        let segments = root.join(SEGMENTS);
        fs::create_dir_all(&segments)
            .map_err(|error| StoreError::io("creating", segments, error))?;
        Ok((place, former))
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
                Some(NEW_CATALOGUE) => entry.file_type().map_err(error)?.is_file(),
                Some("lost+found") => true,
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

    fn copy(&self, stem: &str, end: &str) -> PathBuf {
        self.root.join(SEGMENTS).join(format!("{stem}{end}"))
    }

    /// A copy of a segment.
    pub(super) fn segment(&self, stem: &str) -> PathBuf {
        self.copy(stem, SEGMENT)
    }

    /// Where the copy of a segment is written.
    pub(super) fn new_segment(&self, id: SegmentId) -> PathBuf {
        self.copy(&id.to_string(), NEW_SEGMENT)
    }

    /// The list of a copy's pages.
    pub(super) fn pages(&self, stem: &str) -> PathBuf {
        self.copy(stem, PAGES)
    }

    /// Where the list of a segment's pages is written.
    pub(super) fn new_pages(&self, id: SegmentId) -> PathBuf {
        self.copy(&id.to_string(), NEW_PAGES)
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

    /// Removes all copies but those that are `kept`. Files of other names stay.
    pub(super) fn prune(&self, kept: impl Fn(SegmentId, &str) -> bool) -> Result<()> {
        for (path, stem) in self.copies()? {
            if stem.is_some_and(|(id, stem)| !kept(id, &stem)) {
                fs::remove_file(&path).map_err(|error| StoreError::io("removing", path, error))?;
            }
        }
        Ok(())
    }

    /// The copies that have a list, by segment.
    pub(super) fn stems(&self) -> Result<BTreeMap<SegmentId, BTreeSet<String>>> {
        let mut stems = BTreeMap::<_, BTreeSet<_>>::new();
        for (path, stem) in self.copies()? {
            if let Some((id, stem)) = stem
                && path == self.pages(&stem)
            {
                stems.entry(id).or_default().insert(stem);
            }
        }
        Ok(stems)
    }

    /// What is in the directory of copies, and what segment and copy each belongs to.
    fn copies(&self) -> Result<Vec<(PathBuf, Option<Stem>)>> {
        let path = self.root.join(SEGMENTS);
        let error = |error| StoreError::io("reading", &path, error);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.map_err(error)?,
        };
        entries
            .map(|entry| {
                let entry = entry.map_err(error)?;
                let name = entry.file_name();
                let is_directory = entry.file_type().map_err(error)?.is_dir();
                let stem = name.to_str().filter(|_| !is_directory).and_then(stem_of);
                let stem = stem.map(|(id, stem)| (id, stem.to_owned()));
                Ok((entry.path(), stem))
            })
            .collect()
    }
}

/// The segment and the stem of a copy's file, or of one in the making, which has the segment's number alone.
fn stem_of(name: &str) -> Option<(SegmentId, &str)> {
    let ends = [SEGMENT, PAGES, NEW_SEGMENT, NEW_PAGES];
    let stem = ends.into_iter().find_map(|end| name.strip_suffix(end))?;
    let (id, list) = stem.split_at_checked(8)?;
    let is_hex = |text: &str| {
        text.bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_list = |list: &str| list.len() == 16 && is_hex(list);
    let fits = is_hex(id) && (list.is_empty() || list.strip_prefix('-').is_some_and(is_list));
    let id = u32::from_str_radix(id, 16).ok().filter(|_| fits)?;
    Some((SegmentId(id), stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_copies_are_told_from_others() {
        for stem in ["0000000a", "0000000a-00000000000000ff"] {
            for end in ["seg", "pages", "seg.new", "pages.new"] {
                let name = format!("{stem}.{end}");
                assert_eq!(stem_of(&name), Some((SegmentId(10), stem)));
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
            "+000000a.seg",
        ] {
            assert_eq!(stem_of(name), None, "{name}");
        }
    }
}
