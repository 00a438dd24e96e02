//! Changes of the index, collected and then made as one.

use std::collections::BTreeMap;
use std::convert::Infallible;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::{Places, Reservation};
use rocksdb::{DB, WriteBatch};
use serde::Serialize;

use super::options::FAMILIES;
use super::totals::Grown;
use super::{
    EPOCH, Index, LIBRARIES, MANIFESTS, META, NEXT_SEGMENT, OBJECTS, PAGES, REFERENCES, REGISTRY,
    SEGMENTS, TAGS, TOKENS, WINDOWS, places_key,
};
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentRecord, reference_key};
use crate::journal::frame::{self, Change};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// Changes that are written together, or not at all.
pub(crate) struct Batch<'a> {
    index: &'a Index,
    /// As the journal has them.
    changes: Vec<u8>,
    grown: Grown,
    /// What the index keeps about its own commits, in [`META`]; `None` where a key goes.
    notes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The changes of a batch that others are made with.
#[derive(Debug)]
pub(crate) struct Changes {
    bytes: Vec<u8>,
    grown: Grown,
}

impl Changes {
    /// Bytes that they take up in the journal.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What the journal calls a family.
fn number_of(family: &str) -> u8 {
    let place = FAMILIES.iter().position(|name| *name == family);
    place.expect("every family is listed") as u8 + 1
}

pub(super) fn family_of(number: u8) -> Option<&'static str> {
    let place = usize::from(number).checked_sub(1)?;
    FAMILIES.get(place).copied()
}

/// What [`Change::add_to`] did not make, or of a family that there is not.
fn impossible(number: u64) -> StoreError {
    StoreError::Corrupt(format!("commit {number} of the journal cannot be read"))
}

impl<'a> Batch<'a> {
    pub(super) fn new(index: &'a Index) -> Self {
        Self {
            index,
            changes: Vec::new(),
            grown: Grown::default(),
            notes: Vec::new(),
        }
    }

    /// What was changed so far, as the journal has it.
    pub(crate) fn changes(&self) -> &[u8] {
        &self.changes
    }

    /// What pages and windows come to by that.
    pub(super) fn grown(&self) -> Grown {
        self.grown
    }

    /// All that was changed, for a group.
    pub(crate) fn into_changes(self) -> Changes {
        Changes {
            bytes: self.changes,
            grown: self.grown,
        }
    }

    /// Adds the changes of another batch, after those so far.
    pub(crate) fn append(&mut self, changes: &Changes) {
        self.changes.extend_from_slice(&changes.bytes);
        self.grown += changes.grown;
    }

    /// All of it for RocksDB.
    pub(super) fn writes(&self, db: &DB) -> WriteBatch {
        let mut writes = WriteBatch::default();
        each_made(&self.changes, |family, key, value| {
            let family = super::family(db, family);
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        });
        let meta = super::family(db, META);
        for (key, value) in &self.notes {
            match value {
                Some(value) => writes.put_cf(meta, key, value),
                None => writes.delete_cf(meta, key),
            }
        }
        writes
    }

    /// The changes of the commit `number` of the journal. Pages and windows are left out where they are found out anew.
    pub(crate) fn replayed(
        index: &'a Index,
        number: u64,
        changes: &[u8],
        with_places: bool,
    ) -> Result<Self> {
        let mut batch = index.batch();
        let is_right = frame::each_change(changes, |change| {
            let family = family_of(change.family).ok_or_else(|| impossible(number))?;
            if with_places || !matches!(family, PAGES | WINDOWS) {
                batch.change(family, change.key, change.value);
            }
            Ok(())
        })?;
        if is_right {
            Ok(batch)
        } else {
            Err(impossible(number))
        }
    }

    fn change(&mut self, family: &'static str, key: &[u8], value: Option<&[u8]>) {
        let change = Change {
            family: number_of(family),
            key,
            value,
        };
        change.add_to(&mut self.changes);
    }

    pub(super) fn put(
        &mut self,
        family: &'static str,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) {
        self.change(family, key.as_ref(), Some(value.as_ref()));
    }

    fn put_json(&mut self, family: &'static str, key: impl AsRef<[u8]>, value: &impl Serialize) {
        let json = serde_json::to_vec(value).expect("records have only string keys");
        self.put(family, key, json);
    }

    fn delete(&mut self, family: &'static str, key: impl AsRef<[u8]>) {
        self.change(family, key.as_ref(), None);
    }

    /// Puts a page that there is not.
    pub(crate) fn add_page(&mut self, id: PageId, location: Location) {
        self.move_page(id, location);
        self.grow(1, 0);
    }

    /// Puts a page elsewhere than it is.
    pub(crate) fn move_page(&mut self, id: PageId, location: Location) {
        self.put(PAGES, id.0, location.encode());
    }

    /// Removes a page that there is.
    pub(crate) fn delete_page(&mut self, id: PageId) {
        self.delete(PAGES, id.0);
        self.grow(-1, 0);
    }

    /// Puts a window that there is not.
    pub(crate) fn add_window(&mut self, id: WindowId, location: Location) {
        self.move_window(id, location);
        self.grow(0, 1);
    }

    /// Puts a window elsewhere than it is.
    pub(crate) fn move_window(&mut self, id: WindowId, location: Location) {
        self.put(WINDOWS, id.0, location.encode());
    }

    /// Removes a window that there is.
    pub(crate) fn delete_window(&mut self, id: WindowId) {
        self.delete(WINDOWS, id.0);
        self.grow(0, -1);
    }

    fn grow(&mut self, pages: i64, windows: i64) {
        self.grown += Grown::By { pages, windows };
    }

    /// Somebody may have put by now what is added.
    pub(crate) fn overtaken(&mut self) {
        self.grown = Grown::Unknown;
    }

    /// Puts a page that was found somewhere, be it on record or not. How many there are is not known by that.
    pub(crate) fn note_page(&mut self, id: PageId, location: Location) {
        self.move_page(id, location);
        self.grown = Grown::Unknown;
    }

    /// The same of a window.
    pub(crate) fn note_window(&mut self, id: WindowId, location: Location) {
        self.move_window(id, location);
        self.grown = Grown::Unknown;
    }

    pub(crate) fn put_object(&mut self, id: ObjectId, record: &ObjectRecord) {
        self.put(OBJECTS, id.0, record.encode());
    }

    pub(crate) fn delete_object(&mut self, id: ObjectId) {
        self.delete(OBJECTS, id.0);
    }

    pub(crate) fn put_library(&mut self, library: &LibraryRef, record: &LibraryRecord) {
        self.put_json(LIBRARIES, library.to_string(), record);
    }

    pub(crate) fn delete_library(&mut self, library: &LibraryRef) {
        self.delete(LIBRARIES, library.to_string());
    }

    /// Points a tag at a manifest; `previous` is the manifest it pointed at.
    pub(crate) fn put_tag(
        &mut self,
        image: &ImageRef,
        record: &TagRecord,
        previous: Option<ObjectId>,
    ) {
        if let Some(previous) = previous {
            self.delete(REFERENCES, reference_key::tag_of(previous, image));
        }
        self.put_json(TAGS, image.to_string(), record);
        self.put(
            REFERENCES,
            reference_key::tag_of(record.manifest, image),
            [],
        );
    }

    pub(crate) fn delete_tag(&mut self, image: &ImageRef, manifest: ObjectId) {
        self.delete(TAGS, image.to_string());
        self.delete(REFERENCES, reference_key::tag_of(manifest, image));
    }

    /// Adds a manifest and its references to library versions.
    pub(crate) fn put_manifest(&mut self, id: ObjectId, manifest: &ImageManifest) {
        self.put_json(MANIFESTS, id.0, manifest);
        for used in &manifest.description.libraries {
            self.put(REFERENCES, reference_key::user_of(&used.library, id), []);
        }
    }

    /// Removes a manifest and its references to library versions.
    pub(crate) fn delete_manifest(&mut self, id: ObjectId, manifest: &ImageManifest) {
        self.delete(MANIFESTS, id.0);
        for used in &manifest.description.libraries {
            self.delete(REFERENCES, reference_key::user_of(&used.library, id));
        }
    }

    pub(crate) fn put_segment(&mut self, id: SegmentId, record: &SegmentRecord) {
        self.put(SEGMENTS, id.0.to_be_bytes(), record.encode());
    }

    pub(crate) fn delete_segment(&mut self, id: SegmentId) {
        self.delete(SEGMENTS, id.0.to_be_bytes());
    }

    pub(crate) fn put_next_segment(&mut self, id: u64) {
        self.put(META, NEXT_SEGMENT, id.to_le_bytes());
    }

    pub(crate) fn put_epoch(&mut self, epoch: u64) {
        self.put(META, EPOCH, epoch.to_le_bytes());
    }

    pub(crate) fn put_reservation(&mut self, sequence: u64, reservation: &Reservation) {
        self.put_json(REGISTRY, sequence.to_be_bytes(), reservation);
    }

    /// Where everything is in a library version.
    pub(crate) fn put_places(&mut self, library: &LibraryRef, places: &Places) {
        self.put_meta(places_key(library), places.bytes());
    }

    pub(crate) fn put_token(&mut self, record: &TokenRecord) {
        self.put_json(TOKENS, &record.name, record);
    }

    pub(crate) fn delete_token(&mut self, name: &str) {
        self.delete(TOKENS, name);
    }

    pub(super) fn put_meta(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.put(META, key, value);
    }

    pub(super) fn delete_meta(&mut self, key: impl AsRef<[u8]>) {
        self.delete(META, key);
    }

    /// Puts what the index keeps about its own commits, which is no change.
    pub(super) fn note(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let note = (key.as_ref().to_vec(), Some(value.as_ref().to_vec()));
        self.notes.push(note);
    }

    /// Removes such a note.
    pub(super) fn forget(&mut self, key: impl AsRef<[u8]>) {
        self.notes.push((key.as_ref().to_vec(), None));
    }

    /// Makes a segment's record one that nobody can read.
    #[cfg(test)]
    pub(crate) fn spoil_segment(&mut self, key: &[u8]) {
        self.put(SEGMENTS, key, b"spoilt");
    }

    /// Writes all changes to an index in the making: nothing counts them, and nothing is waited for.
    pub(crate) fn put_now(self) -> Result<()> {
        self.index.write(&self, false)
    }

    /// Writes all changes, counts the commit, and waits until both survive a power cut. Does nothing
    /// when there are no changes.
    pub(crate) fn commit(self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.index.commit(self)
    }

    /// True when nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.notes.is_empty()
    }
}

/// Calls `visit` with each of the changes that a batch made, by name of the family.
pub(super) fn each_made(changes: &[u8], mut visit: impl FnMut(&'static str, &[u8], Option<&[u8]>)) {
    let made: std::result::Result<bool, Infallible> = frame::each_change(changes, |change| {
        if let Some(family) = family_of(change.family) {
            visit(family, change.key, change.value);
        }
        Ok(())
    });
    debug_assert!(matches!(made, Ok(true)));
}

/// Makes of segments on record what the commit `number` of the journal made of them.
pub(crate) fn follow_segments(
    segments: &mut BTreeMap<SegmentId, SegmentRecord>,
    number: u64,
    changes: &[u8],
) -> Result<()> {
    let is_right = frame::each_change(changes, |change| {
        if family_of(change.family) != Some(SEGMENTS) {
            return Ok(());
        }
        let id = change.key.try_into().map_err(|_| impossible(number))?;
        let id = SegmentId(u32::from_be_bytes(id));
        match change.value {
            Some(value) => segments.insert(id, SegmentRecord::decode(value)?),
            None => segments.remove(&id),
        };
        Ok(())
    })?;
    if is_right {
        Ok(())
    } else {
        Err(impossible(number))
    }
}
