//! One state of the index, and everything that can be asked of it.
//!
//! What one commit changed is seen whole or not at all: a tag has its manifest, a manifest its
//! objects, an object its segments.

use std::collections::BTreeMap;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::image_map::{IMAGE_MAP_FORMAT, ImageMap};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::Reservation;

use crate::StoreView;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, Reference, SegmentRecord};
use crate::index::{Pin, Reader};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// One state of the index; see [`StoreView::snapshot`].
pub struct Snapshot<'a> {
    view: &'a StoreView,
    pin: Pin<'a>,
    generation: u64,
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("view", self.view)
            .finish_non_exhaustive()
    }
}

impl<'a> Snapshot<'a> {
    pub(crate) fn new(view: &'a StoreView, pin: Pin<'a>, generation: u64) -> Self {
        Self {
            view,
            pin,
            generation,
        }
    }

    /// The store, to read contents and to ask for leases. Not to be refreshed.
    pub fn view(&self) -> &'a StoreView {
        self.view
    }

    /// A generation of the store that this state is no older than.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn index(&self) -> Reader<'_> {
        self.view.index.at(&self.pin)
    }

    /// The record of an object.
    pub fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        self.index().object(id)
    }

    /// Where a page is kept.
    pub fn page(&self, id: &PageId) -> Result<Option<Location>> {
        self.index().page(id)
    }

    /// The record of a library version.
    pub fn library(&self, library: &LibraryRef) -> Result<Option<LibraryRecord>> {
        self.index().library(library)
    }

    /// All library versions in order of name.
    pub fn libraries(&self) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.index().libraries("")
    }

    /// All versions of one library.
    pub fn library_versions(&self, name: &str) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.index().libraries(&format!("{name}@"))
    }

    /// Images that use a library version, tag by tag.
    pub fn library_users(&self, library: &LibraryRef) -> Result<Vec<ImageRef>> {
        let mut tags = Vec::new();
        for manifest in self.index().users_of(library)? {
            tags.extend(self.index().tags_of(manifest)?);
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// All tags in order of name.
    pub fn tags(&self) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.index().tags("")
    }

    /// All tags of one image name.
    pub fn tags_of_name(&self, name: &str) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.index().tags(&format!("{name}:"))
    }

    /// A tag and the manifest it points at.
    pub fn image(&self, image: &ImageRef) -> Result<Option<(TagRecord, ImageManifest)>> {
        let Some(tag) = self.index().tag(image)? else {
            return Ok(None);
        };
        let manifest = self.index().manifest(tag.manifest)?.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "image/{image} points at no manifest ({})",
                tag.manifest
            ))
        })?;
        Ok(Some((tag, manifest)))
    }

    /// Tags that point at a manifest.
    pub fn tags_of_manifest(&self, manifest: ObjectId) -> Result<Vec<ImageRef>> {
        self.index().tags_of(manifest)
    }

    /// The map that a VMM works from.
    pub fn image_map(&self, manifest: &ImageManifest) -> Result<ImageMap> {
        let mut objects = BTreeMap::new();
        for id in manifest.description.objects().into_keys() {
            let record = self.object(id)?.ok_or_else(|| missing_object(id))?;
            objects.insert(id, record.map);
        }
        Ok(ImageMap {
            format: IMAGE_MAP_FORMAT,
            description: manifest.description.clone(),
            objects,
        })
    }

    /// All segments that the index knows.
    pub fn segments(&self) -> Result<Vec<(SegmentId, SegmentRecord)>> {
        self.index().segments()
    }

    /// The record of a segment.
    pub fn segment(&self, id: SegmentId) -> Result<Option<SegmentRecord>> {
        self.index().segment(id)
    }

    /// The segments that some objects lie in, each once.
    pub(crate) fn segments_of(&self, objects: &[ObjectId]) -> Result<Vec<SegmentId>> {
        let mut segments = Vec::new();
        for id in objects {
            let record = self.object(*id)?.ok_or_else(|| missing_object(*id))?;
            segments.extend(record.map.extents().iter().map(|extent| extent.segment));
        }
        segments.sort_unstable();
        segments.dedup();
        Ok(segments)
    }

    /// Every address reservation, oldest first.
    pub fn reservations(&self) -> Result<Vec<Reservation>> {
        self.index().reservations()
    }

    /// Every token record.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.index().tokens()
    }

    /// The collection epoch: grows by one with every collection.
    pub fn epoch(&self) -> Result<u64> {
        self.index().epoch()
    }

    /// Calls `visit` with every page of the index.
    pub fn for_each_page(&self, visit: impl FnMut(PageId, Location) -> Result<()>) -> Result<()> {
        self.index().for_each_page(visit)
    }

    /// Calls `visit` with every densely stored window.
    pub fn for_each_window(
        &self,
        visit: impl FnMut(WindowId, Location) -> Result<()>,
    ) -> Result<()> {
        self.index().for_each_window(visit)
    }

    /// Calls `visit` with every object.
    pub fn for_each_object(
        &self,
        visit: impl FnMut(ObjectId, ObjectRecord) -> Result<()>,
    ) -> Result<()> {
        self.index().for_each_object(visit)
    }

    /// Calls `visit` with every image manifest.
    pub fn for_each_manifest(
        &self,
        visit: impl FnMut(ObjectId, ImageManifest) -> Result<()>,
    ) -> Result<()> {
        self.index().for_each_manifest(visit)
    }

    /// Calls `visit` with every entry of the index of references.
    pub fn for_each_reference(&self, visit: impl FnMut(Reference) -> Result<()>) -> Result<()> {
        self.index().for_each_reference(visit)
    }
}

fn missing_object(id: ObjectId) -> StoreError {
    StoreError::Corrupt(format!("object {id} is referred to, and is not there"))
}
