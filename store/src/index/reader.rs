//! Typed reading: the keys and records of FORMAT.md, as they are now or in one state.

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::Reservation;
use rocksdb::{Direction, IteratorMode, ReadOptions};
use serde::de::DeserializeOwned;

use super::{
    EPOCH, Index, LIBRARIES, MANIFESTS, META, NEXT_SEGMENT, OBJECTS, PAGES, Pin, REFERENCES,
    REGISTRY, SEGMENTS, TAGS, TOKENS, WINDOWS,
};
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, Reference, SegmentRecord, reference_key};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// The index as questions see it: one state of it while a pin lasts, or whatever it is by then.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    index: &'a Index,
    pin: Option<&'a Pin<'a>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(index: &'a Index, pin: Option<&'a Pin<'a>>) -> Self {
        Self { index, pin }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if let Some(Pin::Snapshot(snapshot)) = self.pin {
            options.set_snapshot(snapshot);
        }
        options
    }

    pub(super) fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.index
            .with_db(|db| db.get_cf_opt(super::family(db, family), key, &self.options()))
            .map_err(|source| StoreError::index("reading", source))
    }

    fn get_json<T: DeserializeOwned>(&self, family: &'static str, key: &[u8]) -> Result<Option<T>> {
        self.get(family, key)?
            .map(|value| from_json(family, &value))
            .transpose()
    }

    /// Calls `visit` with each entry whose key begins with `prefix`, in order of keys.
    pub(super) fn scan(
        &self,
        family: &'static str,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.index.with_db(|db| {
            let mode = IteratorMode::From(prefix, Direction::Forward);
            let family = super::family(db, family);
            for entry in db.iterator_cf_opt(family, self.options(), mode) {
                let (key, value) = entry.map_err(|source| StoreError::index("scanning", source))?;
                if !key.starts_with(prefix) {
                    break;
                }
                visit(&key, &value)?;
            }
            Ok(())
        })
    }

    pub(crate) fn page(&self, id: &PageId) -> Result<Option<Location>> {
        self.get(PAGES, &id.0)?
            .map(|value| Location::decode(&value))
            .transpose()
    }

    /// Locations of many pages, in the order of `ids`.
    pub(crate) fn pages(&self, ids: &[PageId]) -> Result<Vec<Option<Location>>> {
        let found = self.index.with_db(|db| {
            let keys = ids.iter().map(|id| &id.0);
            let found =
                db.batched_multi_get_cf_opt(super::family(db, PAGES), keys, false, &self.options());
            let copied = found
                .into_iter()
                .map(|found| found.map(|value| value.map(|value| value.to_vec())));
            copied.collect::<Vec<_>>()
        });
        found
            .into_iter()
            .map(|found| {
                found
                    .map_err(|source| StoreError::index("reading", source))?
                    .map(|value| Location::decode(&value))
                    .transpose()
            })
            .collect()
    }

    pub(crate) fn window(&self, id: &WindowId) -> Result<Option<Location>> {
        self.get(WINDOWS, &id.0)?
            .map(|value| Location::decode(&value))
            .transpose()
    }

    pub(crate) fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        self.get(OBJECTS, &id.0)?
            .map(|value| ObjectRecord::decode(id, &value))
            .transpose()
    }

    pub(crate) fn library(&self, library: &LibraryRef) -> Result<Option<LibraryRecord>> {
        self.get_json(LIBRARIES, library.to_string().as_bytes())
    }

    pub(crate) fn tag(&self, image: &ImageRef) -> Result<Option<TagRecord>> {
        self.get_json(TAGS, image.to_string().as_bytes())
    }

    pub(crate) fn manifest(&self, id: ObjectId) -> Result<Option<ImageManifest>> {
        self.get_json(MANIFESTS, &id.0)
    }

    pub(crate) fn segment(&self, id: SegmentId) -> Result<Option<SegmentRecord>> {
        self.get(SEGMENTS, &id.0.to_be_bytes())?
            .map(|value| SegmentRecord::decode(&value))
            .transpose()
    }

    pub(crate) fn epoch(&self) -> Result<u64> {
        self.counter(EPOCH)
    }

    pub(crate) fn next_segment(&self) -> Result<SegmentId> {
        let next = self.counter(NEXT_SEGMENT)?;
        u32::try_from(next)
            .map(SegmentId)
            .map_err(|_| StoreError::Corrupt(format!("the next segment would have number {next}")))
    }

    pub(super) fn counter(&self, key: &[u8]) -> Result<u64> {
        let Some(value) = self.get(META, key)? else {
            return Ok(0);
        };
        let bytes = value.as_slice().try_into().map_err(|_| {
            StoreError::Corrupt(format!(
                "counter {} is not 8 bytes",
                String::from_utf8_lossy(key)
            ))
        })?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn for_each_page(
        &self,
        mut visit: impl FnMut(PageId, Location) -> Result<()>,
    ) -> Result<()> {
        self.scan(PAGES, &[], |key, value| {
            visit(PageId(digest_key(PAGES, key)?), Location::decode(value)?)
        })
    }

    pub(crate) fn for_each_window(
        &self,
        mut visit: impl FnMut(WindowId, Location) -> Result<()>,
    ) -> Result<()> {
        self.scan(WINDOWS, &[], |key, value| {
            visit(
                WindowId(digest_key(WINDOWS, key)?),
                Location::decode(value)?,
            )
        })
    }

    pub(crate) fn for_each_object(
        &self,
        mut visit: impl FnMut(ObjectId, ObjectRecord) -> Result<()>,
    ) -> Result<()> {
        self.scan(OBJECTS, &[], |key, value| {
            let id = ObjectId(digest_key(OBJECTS, key)?);
            visit(id, ObjectRecord::decode(id, value)?)
        })
    }

    pub(crate) fn for_each_manifest(
        &self,
        mut visit: impl FnMut(ObjectId, ImageManifest) -> Result<()>,
    ) -> Result<()> {
        self.scan(MANIFESTS, &[], |key, value| {
            visit(
                ObjectId(digest_key(MANIFESTS, key)?),
                from_json(MANIFESTS, value)?,
            )
        })
    }

    /// Library versions in order of name; `prefix` is empty or a name and `@`.
    pub(crate) fn libraries(&self, prefix: &str) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.collect_named(LIBRARIES, prefix)
    }

    /// Tags in order of name; `prefix` is empty or a name and `:`.
    pub(crate) fn tags(&self, prefix: &str) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.collect_named(TAGS, prefix)
    }

    fn collect_named<K, V>(&self, family: &'static str, prefix: &str) -> Result<Vec<(K, V)>>
    where
        K: std::str::FromStr,
        V: DeserializeOwned,
    {
        let mut all = Vec::new();
        self.scan(family, prefix.as_bytes(), |key, value| {
            let name = std::str::from_utf8(key)
                .ok()
                .and_then(|text| text.parse().ok());
            let name = name.ok_or_else(|| {
                let text = String::from_utf8_lossy(key);
                StoreError::Corrupt(format!("{family} has the impossible key {text:?}"))
            })?;
            all.push((name, from_json(family, value)?));
            Ok(())
        })?;
        Ok(all)
    }

    pub(crate) fn segments(&self) -> Result<Vec<(SegmentId, SegmentRecord)>> {
        let mut all = Vec::new();
        self.scan(SEGMENTS, &[], |key, value| {
            let key = key.try_into().map_err(|_| {
                StoreError::Corrupt(format!("a segment key has {} bytes", key.len()))
            })?;
            all.push((
                SegmentId(u32::from_be_bytes(key)),
                SegmentRecord::decode(value)?,
            ));
            Ok(())
        })?;
        Ok(all)
    }

    /// Every segment on record, each readable or not: one that is not, and a part of the index
    /// that is not, keep none of the others from being known.
    pub(crate) fn segments_one_by_one(&self) -> Result<Vec<(SegmentId, Result<SegmentRecord>)>> {
        let mut all = Vec::new();
        let scan = self.scan(SEGMENTS, &[], |key, value| {
            if let Ok(id) = key.try_into().map(u32::from_be_bytes) {
                all.push((SegmentId(id), SegmentRecord::decode(value)));
            } else {
                tracing::warn!(?key, "a segment's key is not 4 bytes; run pool fsck");
            }
            Ok(())
        });
        if let Err(error) = scan {
            tracing::warn!(%error, "asking for each segment");
            let first = all.last().map_or(0, |(id, _)| id.0 + 1);
            for id in (first..self.next_segment()?.0).map(SegmentId) {
                if let Some(record) = self.segment(id).transpose() {
                    all.push((id, record));
                }
            }
        }
        Ok(all)
    }

    /// Tags of a manifest.
    pub(crate) fn tags_of(&self, manifest: ObjectId) -> Result<Vec<ImageRef>> {
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

    /// Manifests that use a library version.
    pub(crate) fn users_of(&self, library: &LibraryRef) -> Result<Vec<ObjectId>> {
        let prefix = reference_key::users_of(library);
        let mut users = Vec::new();
        self.scan(REFERENCES, &prefix, |key, _| {
            users.push(ObjectId(digest_key(REFERENCES, &key[prefix.len()..])?));
            Ok(())
        })?;
        Ok(users)
    }

    pub(crate) fn for_each_reference(
        &self,
        mut visit: impl FnMut(Reference) -> Result<()>,
    ) -> Result<()> {
        self.scan(REFERENCES, &[], |key, _| {
            let reference = reference_key::parse(key).ok_or_else(|| {
                let text = String::from_utf8_lossy(key);
                StoreError::Corrupt(format!("{REFERENCES} has the impossible key {text:?}"))
            })?;
            visit(reference)
        })
    }

    pub(crate) fn reservations(&self) -> Result<Vec<Reservation>> {
        let mut all = Vec::new();
        self.scan(REGISTRY, &[], |_, value| {
            all.push(from_json(REGISTRY, value)?);
            Ok(())
        })?;
        Ok(all)
    }

    pub(crate) fn tokens(&self) -> Result<Vec<TokenRecord>> {
        let mut all = Vec::new();
        self.scan(TOKENS, &[], |_, value| {
            all.push(from_json(TOKENS, value)?);
            Ok(())
        })?;
        Ok(all)
    }
}

fn digest_key(family: &str, key: &[u8]) -> Result<[u8; 32]> {
    key.try_into()
        .map_err(|_| StoreError::Corrupt(format!("{family} has a key of {} bytes", key.len())))
}

fn from_json<T: DeserializeOwned>(family: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Corrupt(format!("a record of {family}: {error}")))
}
