//! What is at a place: the queries of the store behind every look-up, listing and open.

mod cache;
mod found;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pool_core::digest::ObjectId;
use pool_core::extent::{ExtentMap, SegmentId};
use pool_core::name::{ImageRef, LibraryRef, Name};
use pool_core::page::PAGE_SIZE;
use pool_store::format::{GENERATION_FILE, SUPERBLOCK_FILE};
use pool_store::manifest::{ImageManifest, Timestamp};
use pool_store::{Held, Reads, Result, Snapshot, StoreError, StoreView};
use serde::Serialize;
use serde_json::json;

use crate::inodes::Node;
use crate::passthrough::Decision;
use crate::tree::{ImageFile, LibraryFile, Place, ROOT_DIRECTORIES, ServiceFile};
use cache::FoundCache;
use found::{directory, object, rendered};

pub(crate) use found::segment_version;
pub use found::{Content, Found};

/// A store as the tree shows it.
#[derive(Debug)]
pub struct Contents {
    view: StoreView,
    cache: FoundCache,
    passthrough: Decision,
    /// When the store was made: the time of what has no time of its own.
    made: SystemTime,
}

impl Contents {
    /// Shows `view`; `.pool/version` tells what was decided about passthrough.
    pub fn new(view: StoreView, passthrough: Decision) -> Self {
        let made = modified(&view.directory().join(SUPERBLOCK_FILE));
        Self {
            view,
            cache: FoundCache::default(),
            passthrough,
            made,
        }
    }

    /// The store.
    pub fn view(&self) -> &StoreView {
        &self.view
    }

    /// What is at `place` now, everything committed before the call included.
    pub fn find(&self, place: &Place) -> Result<Option<Found>> {
        self.view.refresh()?;
        self.find_at(&self.view.snapshot(), place)
    }

    /// The places in a directory; none when it is gone.
    pub fn children(&self, directory: &Place) -> Result<Vec<Place>> {
        self.view.refresh()?;
        Self::children_at(&self.view.snapshot(), directory)
    }

    /// Finds a node again: at its place or, when that holds something else by now, as what was
    /// `seen` there before. `None` when neither is in the store.
    pub fn find_node(
        &self,
        node: &Node,
        seen: impl Fn() -> Option<Found>,
    ) -> Result<Option<Found>> {
        self.view.refresh()?;
        self.find_node_at(&self.view.snapshot(), node, &seen)
    }

    /// The same, and holds everything it leads to.
    pub fn hold(
        &self,
        node: &Node,
        seen: impl Fn() -> Option<Found>,
    ) -> Result<Option<Held<Found>>> {
        self.view.hold_at(|store| {
            let Some(found) = self.find_node_at(store, node, &seen)? else {
                return Ok(None);
            };
            let segments = if let Some(segments) = &found.segments {
                Arc::clone(segments)
            } else {
                let (segments, reads) = store.noting(|| store.segments_of(&found.holds))?;
                let segments = segments.into();
                if let Some(state) = store.state() {
                    self.cache
                        .add_segments(&node.place, state, &found, &segments, reads);
                }
                segments
            };
            let holds = found.holds.clone();
            Ok(Some((found, holds, segments)))
        })
    }

    fn find_node_at(
        &self,
        store: &Snapshot<'_>,
        node: &Node,
        seen: &impl Fn() -> Option<Found>,
    ) -> Result<Option<Found>> {
        let at_place = self.find_at(store, &node.place)?;
        if at_place.as_ref().map(|found| found.version) == Some(node.version) {
            return Ok(at_place);
        }
        match (&node.place, seen()) {
            // Its pages may have left the segments that it says.
            (Place::Extents(_), _) => Ok(None),
            (_, Some(seen)) if seen.version.is_some() && seen.version == node.version => {
                Self::find_seen(store, seen)
            }
            _ => Ok(None),
        }
    }

    /// What was seen before, if all of it is still in the store and where it was said to be.
    fn find_seen(store: &Snapshot<'_>, mut seen: Found) -> Result<Option<Found>> {
        for id in &seen.holds {
            if store.object(*id)?.is_none() {
                return Ok(None);
            }
        }
        if let Some(manifest) = &seen.mapped
            && Some(ObjectId::of(&Self::image_map(store, manifest)?)) != seen.version
        {
            return Ok(None);
        }
        if let Content::Object(id, map) = &mut seen.content {
            *map = Arc::new(Self::map(store, *id)?);
        }
        seen.segments = None;
        Ok(Some(seen))
    }

    /// What is at `place` in one state of the store.
    fn find_at(&self, store: &Snapshot<'_>, place: &Place) -> Result<Option<Found>> {
        let Some(state) = store.state().filter(|_| is_decided_by_the_index(place)) else {
            return self.look_at(store, place);
        };
        let keeps = |reads: &Reads, since| store.keeps(reads, since);
        if let Some(found) = self.cache.get(place, state, keeps) {
            return Ok(Some(found));
        }
        let (found, reads) = store.noting(|| self.look_at(store, place))?;
        if let Some(found) = &found {
            self.cache.keep(place, state, found, reads);
        }
        Ok(found)
    }

    fn look_at(&self, store: &Snapshot<'_>, place: &Place) -> Result<Option<Found>> {
        match place {
            Place::Root
            | Place::Libraries
            | Place::LibraryName(_)
            | Place::Images
            | Place::ImageName(_)
            | Place::Objects
            | Place::Segments
            | Place::Service
            | Place::AllExtents => self.find_directory(store, place),
            Place::Library(library) => {
                let record = store.library(library)?;
                Ok(record.map(|record| directory(2, time(record.created_at))))
            }
            Place::Image(image) => {
                let found = store.image(image)?;
                Ok(found.map(|(tag, _)| directory(2, time(tag.tagged_at))))
            }
            Place::LibraryFile(library, file) => Self::find_library_file(store, library, *file),
            Place::ImageFile(image, file) => Self::find_image_file(store, image, *file),
            Place::Object(id) => Ok(store
                .object(*id)?
                .map(|record| object(*id, record.map, self.made, vec![*id]))),
            Place::Segment(id) => self.find_segment(store, *id),
            Place::Extents(id) => self.find_extents(store, *id),
            Place::ServiceFile(ServiceFile::Version) => {
                let bytes = self.version();
                Ok(Some(rendered(bytes.into(), self.made, vec![])))
            }
            Place::ServiceFile(ServiceFile::Stats) => {
                // Its time is that of the last commit, whatever that changed.
                store.commits()?;
                let bytes = to_json(&store.stats()?);
                Ok(Some(rendered(bytes.into(), self.changed(), vec![])))
            }
        }
    }

    fn find_directory(&self, store: &Snapshot<'_>, place: &Place) -> Result<Option<Found>> {
        let (is_there, links) = match place {
            Place::Root => (true, ROOT_DIRECTORIES.len() as u32 + 2),
            Place::Service => (true, 3),
            // There may be many, and a path that leads through is no question how many. One link is
            // no count at all, as on btrfs.
            Place::Libraries | Place::Images => (true, 1),
            Place::LibraryName(name) => (store.has_library_of(name.as_str())?, 1),
            Place::ImageName(name) => (store.has_image_of(name.as_str())?, 1),
            _ => (true, 2),
        };
        if !is_there {
            return Ok(None);
        }
        let time = match place {
            Place::Root | Place::Service => self.made,
            _ => self.changed(),
        };
        Ok(Some(directory(links, time)))
    }

    fn find_library_file(
        store: &Snapshot<'_>,
        library: &LibraryRef,
        file: LibraryFile,
    ) -> Result<Option<Found>> {
        let Some(record) = store.library(library)? else {
            return Ok(None);
        };
        let time = time(record.created_at);
        let map = Self::map(store, record.object)?;
        let holds = vec![record.object];
        Ok(Some(match file {
            LibraryFile::Content => object(record.object, map, time, holds),
            LibraryFile::Manifest => {
                let manifest = json!({
                    "name": library.name,
                    "version": library.version,
                    "object": record.object,
                    "bytes": map.length,
                    "created_at": record.created_at,
                    "pinned": record.pinned,
                    "unused_since": record.unused_since,
                });
                rendered(to_json(&manifest).into(), time, holds)
            }
        }))
    }

    fn find_image_file(
        store: &Snapshot<'_>,
        image: &ImageRef,
        file: ImageFile,
    ) -> Result<Option<Found>> {
        let Some((tag, manifest)) = store.image(image)? else {
            return Ok(None);
        };
        let time = time(tag.tagged_at);
        // Whichever file is open, all of the image stays: a guest may need any of it.
        let holds = manifest.objects();
        Ok(Some(match file {
            ImageFile::Elf => object(manifest.file, Self::map(store, manifest.file)?, time, holds),
            ImageFile::Data => match manifest.data {
                Some(data) => object(data, Self::map(store, data)?, time, holds),
                None => return Ok(None),
            },
            ImageFile::Description => rendered(manifest.description.to_json().into(), time, holds),
            ImageFile::Map => {
                let bytes = Self::image_map(store, &manifest)?;
                Found {
                    mapped: Some(Arc::new(manifest)),
                    ..rendered(bytes.into(), time, holds)
                }
            }
            ImageFile::Manifest => {
                let description = &manifest.description;
                let record = json!({
                    "name": image.name,
                    "tag": image.tag,
                    "manifest": tag.manifest,
                    "tagged_at": tag.tagged_at,
                    "created_at": manifest.created_at,
                    "file": description.image,
                    "data": manifest.data,
                    "abi": description.abi,
                    "layout": description.layout,
                    "libraries": description.libraries,
                    "objects": holds,
                });
                rendered(to_json(&record).into(), time, holds)
            }
        }))
    }

    fn find_extents(&self, store: &Snapshot<'_>, id: ObjectId) -> Result<Option<Found>> {
        let record = store.object(id)?;
        Ok(record.map(|record| {
            // Too quickly made to be kept: whoever lists them makes all.
            rendered(extents_json(&record.map).into(), self.made, vec![id])
        }))
    }

    fn find_segment(&self, store: &Snapshot<'_>, id: SegmentId) -> Result<Option<Found>> {
        let Some(record) = store.segment(id)? else {
            return Ok(None);
        };
        let file = self.view.segment_identity(id);
        let file = file.and_then(|file| Ok((file, self.view.segment_disk_usage(id)?)));
        let (file, stored) = match file {
            Ok(found) => found,
            // A retired segment was unlinked a moment ago.
            Err(StoreError::NoSegment(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Found {
            version: Some(segment_version(file)),
            size: u64::from(record.capacity) * PAGE_SIZE,
            stored,
            time: self.made,
            links: 1,
            content: Content::Segment {
                id,
                commits: store.commits()?,
            },
            holds: vec![],
            segments: None,
            mapped: None,
        }))
    }

    fn children_at(store: &Snapshot<'_>, directory: &Place) -> Result<Vec<Place>> {
        Ok(match directory {
            Place::Root => ROOT_DIRECTORIES.to_vec(),
            Place::Libraries => {
                let libraries = store.libraries()?;
                names(libraries.into_iter().map(|(library, _)| library.name))
                    .map(Place::LibraryName)
                    .collect()
            }
            Place::LibraryName(name) => store
                .library_versions(name.as_str())?
                .into_iter()
                .map(|(library, _)| Place::Library(library))
                .collect(),
            Place::Library(library) if store.library(library)?.is_some() => LibraryFile::ALL
                .into_iter()
                .map(|file| Place::LibraryFile(library.clone(), file))
                .collect(),
            Place::Images => {
                let tags = store.tags()?;
                names(tags.into_iter().map(|(image, _)| image.name))
                    .map(Place::ImageName)
                    .collect()
            }
            Place::ImageName(name) => store
                .tags_of_name(name.as_str())?
                .into_iter()
                .map(|(image, _)| Place::Image(image))
                .collect(),
            Place::Image(image) => match store.image(image)? {
                Some((_, manifest)) => ImageFile::ALL
                    .into_iter()
                    .filter(|file| *file != ImageFile::Data || manifest.data.is_some())
                    .map(|file| Place::ImageFile(image.clone(), file))
                    .collect(),
                None => vec![],
            },
            Place::Objects => objects(store, Place::Object)?,
            Place::AllExtents => objects(store, Place::Extents)?,
            Place::Segments => store
                .segments()?
                .into_iter()
                .map(|(id, _)| Place::Segment(id))
                .collect(),
            Place::Service => {
                let files = ServiceFile::ALL.map(Place::ServiceFile);
                files.into_iter().chain([Place::AllExtents]).collect()
            }
            _ => vec![],
        })
    }

    fn image_map(store: &Snapshot<'_>, manifest: &ImageManifest) -> Result<Vec<u8>> {
        store.image_map(manifest).map(|map| compact_json(&map))
    }

    fn map(store: &Snapshot<'_>, id: ObjectId) -> Result<ExtentMap> {
        match store.object(id)? {
            Some(record) => Ok(record.map),
            None => Err(StoreError::Corrupt(format!("object {id} is not there"))),
        }
    }

    fn version(&self) -> Vec<u8> {
        let superblock = self.view.superblock();
        let identity = u128::from_be_bytes(superblock.identity);
        to_json(&json!({
            "program": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "format": superblock.version,
            "store": format!("{identity:032x}"),
            "segment_bytes": superblock.segment_bytes,
            "passthrough": self.passthrough.works(),
        }))
    }

    /// When the last commit was.
    fn changed(&self) -> SystemTime {
        modified(&self.view.directory().join(GENERATION_FILE))
    }
}

/// True where the state of the index alone says what is there, and it takes time to say. Which file a segment is says the disk;
/// listings have times of their own; the others are quickly made.
fn is_decided_by_the_index(place: &Place) -> bool {
    matches!(
        place,
        Place::LibraryFile(..)
            | Place::ImageFile(..)
            | Place::Object(_)
            | Place::ServiceFile(ServiceFile::Stats)
    )
}

/// Every object, as `place` shows it.
fn objects(store: &Snapshot<'_>, place: impl Fn(ObjectId) -> Place) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    store.for_each_object(|id, _| {
        places.push(place(id));
        Ok(())
    })?;
    Ok(places)
}

fn names(all: impl Iterator<Item = Name>) -> impl Iterator<Item = Name> {
    all.collect::<BTreeSet<_>>().into_iter()
}

fn time(timestamp: Timestamp) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(timestamp))
        .unwrap_or(UNIX_EPOCH)
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .unwrap_or(UNIX_EPOCH)
}

/// JSON for people, with a newline at the end.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).expect("these records have only string keys");
    json.push(b'\n');
    json
}

/// JSON for programs.
fn compact_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these records have only string keys")
}

/// The extents of an object: what its attribute says, and its file in `.pool/extents`.
pub(crate) fn extents_json(map: &ExtentMap) -> Vec<u8> {
    compact_json(&map.extents())
}
