//! Changes of the index, collected and then made as one.

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::{Places, Reservation};
use rocksdb::{DB, WriteBatch};
use serde::Serialize;

use super::{
    EPOCH, Index, LIBRARIES, MANIFESTS, META, NEXT_SEGMENT, OBJECTS, PAGES, REFERENCES, REGISTRY,
    SEGMENTS, TAGS, TOKENS, WINDOWS, places_key,
};
use crate::error::Result;
use crate::format::{Location, ObjectRecord, SegmentRecord, reference_key};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// Changes that are written together, or not at all.
pub(crate) struct Batch<'a> {
    index: &'a Index,
    db: &'a DB,
    pub(super) writes: WriteBatch,
}

impl<'a> Batch<'a> {
    pub(super) fn new(index: &'a Index, db: &'a DB) -> Self {
        Self {
            index,
            db,
            writes: WriteBatch::default(),
        }
    }

    pub(super) fn put(
        &mut self,
        family: &'static str,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) {
        self.writes
            .put_cf(super::family(self.db, family), key, value);
    }

    fn put_json(&mut self, family: &'static str, key: impl AsRef<[u8]>, value: &impl Serialize) {
        let json = serde_json::to_vec(value).expect("records have only string keys");
        self.put(family, key, json);
    }

    fn delete(&mut self, family: &'static str, key: impl AsRef<[u8]>) {
        self.writes.delete_cf(super::family(self.db, family), key);
    }

    pub(crate) fn put_page(&mut self, id: PageId, location: Location) {
        self.put(PAGES, id.0, location.encode());
    }

    pub(crate) fn delete_page(&mut self, id: PageId) {
        self.delete(PAGES, id.0);
    }

    pub(crate) fn put_window(&mut self, id: WindowId, location: Location) {
        self.put(WINDOWS, id.0, location.encode());
    }

    pub(crate) fn delete_window(&mut self, id: WindowId) {
        self.delete(WINDOWS, id.0);
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

    /// Makes a segment's record one that nobody can read.
    #[cfg(test)]
    pub(crate) fn spoil_segment(&mut self, key: &[u8]) {
        self.put(SEGMENTS, key, b"spoilt");
    }

    /// Writes all changes, counts the commit, and waits until both survive a power cut. Does nothing
    /// when there are no changes.
    pub(crate) fn commit(self) -> Result<()> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.index.commit(self)
    }
}
