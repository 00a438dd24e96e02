//! Typed reading of what has a name: libraries, tags, manifests, who refers to whom, reservations,
//! tokens.

use std::collections::BTreeMap;

use pool_core::digest::ObjectId;
use pool_core::extent::SegmentId;
use pool_core::image_map::{IMAGE_MAP_FORMAT, ImageMap};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::{AddressBook, Known, MAX_PLACES, Places, Reservation};

use super::reader::Reader;
use super::records::{self, Records, digest_key};
use super::{LIBRARIES, MANIFESTS, META, REFERENCES, TAGS, places_key};
use crate::error::{Result, StoreError};
use crate::format::reference_key;
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// Most bytes of records that one answer about places has.
const KNOWN_AT_ONCE: usize = 2 * MAX_PLACES;
/// Most versions that one answer about places is about.
const NAMES_AT_ONCE: usize = 1000;

impl Reader<'_> {
    /// The record of a library version.
    pub fn library(&self, library: &LibraryRef) -> Result<Option<LibraryRecord>> {
        self.get_json(LIBRARIES, library.to_string().as_bytes())
    }

    /// All library versions in order of name.
    pub fn libraries(&self) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.all(&records::LIBRARIES, "")
    }

    /// True when there is a version of a library of that name.
    pub fn has_library_of(&self, name: &str) -> Result<bool> {
        self.any(LIBRARIES, format!("{name}@").as_bytes(), |_| Ok(true))
    }

    /// All versions of one library.
    pub fn library_versions(&self, name: &str) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.all(&records::LIBRARIES, &format!("{name}@"))
    }

    /// Images that use a library version, tag by tag.
    pub fn library_users(&self, library: &LibraryRef) -> Result<Vec<ImageRef>> {
        let mut tags = Vec::new();
        for manifest in self.users_of(library)? {
            tags.extend(self.tags_of_manifest(manifest)?);
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// True when a manifest uses a library version, `but` left out.
    pub(crate) fn is_used(&self, library: &LibraryRef, but: Option<ObjectId>) -> Result<bool> {
        let prefix = reference_key::users_of(library);
        self.any(REFERENCES, &prefix, |key| {
            let user = ObjectId(digest_key(REFERENCES, &key[prefix.len()..])?);
            Ok(Some(user) != but)
        })
    }

    /// Manifests that use a library version.
    fn users_of(&self, library: &LibraryRef) -> Result<Vec<ObjectId>> {
        let prefix = reference_key::users_of(library);
        let mut users = Vec::new();
        self.scan(REFERENCES, &prefix, |key, _| {
            users.push(ObjectId(digest_key(REFERENCES, &key[prefix.len()..])?));
            Ok(())
        })?;
        Ok(users)
    }

    pub(crate) fn tag(&self, image: &ImageRef) -> Result<Option<TagRecord>> {
        self.get_json(TAGS, image.to_string().as_bytes())
    }

    /// All tags in order of name.
    pub fn tags(&self) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.all(&records::TAGS, "")
    }

    /// True when there is a tag of that image name.
    pub fn has_image_of(&self, name: &str) -> Result<bool> {
        self.any(TAGS, format!("{name}:").as_bytes(), |_| Ok(true))
    }

    /// All tags of one image name.
    pub fn tags_of_name(&self, name: &str) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.all(&records::TAGS, &format!("{name}:"))
    }

    /// Tags that point at a manifest.
    pub fn tags_of_manifest(&self, manifest: ObjectId) -> Result<Vec<ImageRef>> {
        let prefix = reference_key::tags_of(manifest);
        let mut tags = Vec::new();
        self.scan(REFERENCES, &prefix, |key, _| {
            let text = std::str::from_utf8(&key[prefix.len()..]).unwrap_or_default();
            tags.push(text.parse().map_err(|error| {
                StoreError::Corrupt(format!("a reference to manifest {manifest}: {error}"))
            })?);
            Ok(())
        })?;
        Ok(tags)
    }

    /// True when a tag points at a manifest, `but` left out.
    pub(crate) fn is_tagged(&self, manifest: ObjectId, but: &ImageRef) -> Result<bool> {
        let but = reference_key::tag_of(manifest, but);
        let prefix = reference_key::tags_of(manifest);
        self.any(REFERENCES, &prefix, |key| Ok(key != but))
    }

    /// All records of a kind whose keys begin with `prefix`.
    fn all<T>(&self, kind: &Records<T>, prefix: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.each_with_prefix(kind, prefix, |record| {
            all.push(record?);
            Ok(())
        })?;
        Ok(all)
    }

    pub(crate) fn manifest(&self, id: ObjectId) -> Result<Option<ImageManifest>> {
        self.get_json(MANIFESTS, &id.0)
    }

    /// Calls `visit` with every image manifest.
    pub fn for_each_manifest(
        &self,
        mut visit: impl FnMut(ObjectId, ImageManifest) -> Result<()>,
    ) -> Result<()> {
        self.each(&records::MANIFESTS, |record| {
            let (id, manifest) = record?;
            visit(id, manifest)
        })
    }

    /// A tag and the manifest it points at.
    pub fn image(&self, image: &ImageRef) -> Result<Option<(TagRecord, ImageManifest)>> {
        let Some(tag) = self.tag(image)? else {
            return Ok(None);
        };
        let manifest = self.manifest(tag.manifest)?.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "image/{image} points at no manifest ({})",
                tag.manifest
            ))
        })?;
        Ok(Some((tag, manifest)))
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

    /// The segments that some objects lie in, each once.
    pub fn segments_of(&self, objects: &[ObjectId]) -> Result<Vec<SegmentId>> {
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
        self.all(&records::RESERVATIONS, "")
    }

    /// What decides where everything is in library versions, in order: in the first of them, a thousand
    /// at most, and no more than have 8 MiB of records. There is one at least.
    pub fn known_places(&self, libraries: &[LibraryRef]) -> Result<Vec<Known>> {
        let book = AddressBook::new(self.reservations()?);
        let mut room = KNOWN_AT_ONCE;
        let mut all = Vec::new();
        for library in libraries.iter().take(NAMES_AT_ONCE) {
            let known = book.known(library, |version| self.places(version))?;
            let size = known.places().map_or(0, |places| places.bytes().len());
            if size > room && !all.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            all.push(known);
        }
        Ok(all)
    }

    fn places(&self, library: &LibraryRef) -> Result<Option<Places>> {
        let found = self.get(META, &places_key(library))?;
        let checked = found.map(|bytes| {
            let too_large = || StoreError::Corrupt(format!("the places of {library} are too many"));
            Places::new(bytes).ok_or_else(too_large)
        });
        checked.transpose()
    }

    /// Every token record.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.all(&records::TOKENS, "")
    }
}

fn missing_object(id: ObjectId) -> StoreError {
    StoreError::Corrupt(format!("object {id} is referred to, and is not there"))
}
