//! The index: typed access to RocksDB, and the only place that names it.
//!
//! A [`Index`] is opened by the one process that writes (the *primary*) or by any number of
//! readers beside it (*secondaries*, which follow the primary's log when asked to).

use std::path::Path;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::Reservation;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    Direction, IteratorMode, Options, WriteBatch, WriteOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, Reference, SegmentRecord, reference_key};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

const META: &str = "meta";
const PAGES: &str = "pages";
const WINDOWS: &str = "windows";
const OBJECTS: &str = "objects";
const LIBRARIES: &str = "libraries";
const TAGS: &str = "tags";
const MANIFESTS: &str = "manifests";
const REFERENCES: &str = "references";
const SEGMENTS: &str = "segments";
const REGISTRY: &str = "registry";
const TOKENS: &str = "tokens";
const FAMILIES: [&str; 11] = [
    META, PAGES, WINDOWS, OBJECTS, LIBRARIES, TAGS, MANIFESTS, REFERENCES, SEGMENTS, REGISTRY,
    TOKENS,
];

const EPOCH: &[u8] = b"epoch";
const NEXT_SEGMENT: &[u8] = b"next-segment";

/// The index of a store.
pub(crate) struct Index {
    db: DB,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("path", &self.db.path())
            .finish()
    }
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(64 << 20);
    let describe = |name: &str| {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        let mut options = Options::default();
        if matches!(name, PAGES | WINDOWS) {
            // Digests do not compress, and most look-ups of an upload are for pages not there.
            blocks.set_bloom_filter(10.0, false);
            options.set_compression_type(DBCompressionType::None);
        } else {
            options.set_compression_type(DBCompressionType::Lz4);
        }
        options.set_block_based_table_factory(&blocks);
        ColumnFamilyDescriptor::new(name, options)
    };
    std::iter::once(ColumnFamilyDescriptor::new("default", Options::default()))
        .chain(FAMILIES.map(describe))
        .collect()
}

impl Index {
    /// Opens the index for writing; only one process can.
    pub(crate) fn open_primary(path: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_keep_log_file_num(2);
        // Bounds what a restart replays, and a new follower reads.
        options.set_max_total_wal_size(64 << 20);
        match DB::open_cf_descriptors(&options, path, families()) {
            Ok(db) => Ok(Self { db }),
            Err(error)
                if error.as_ref().contains("lock hold by")
                    || error.as_ref().contains("While lock file") =>
            {
                let path = path.parent().unwrap_or(path).into();
                Err(StoreError::Locked { path })
            }
            Err(source) => Err(StoreError::index("opening", source)),
        }
    }

    /// Opens the index for reading beside a primary. `scratch` is a directory of this process for
    /// the reader's own log.
    pub(crate) fn open_secondary(path: &Path, scratch: &Path) -> Result<Self> {
        let mut options = Options::default();
        // A reader must hold every table open: the primary deletes compacted ones.
        options.set_max_open_files(-1);
        options.set_keep_log_file_num(1);
        DB::open_cf_descriptors_as_secondary(&options, path, scratch, families())
            .map(|db| Self { db })
            .map_err(|source| StoreError::index("opening", source))
    }

    /// Lets a secondary see what the primary has committed since.
    pub(crate) fn catch_up(&self) -> Result<()> {
        self.db
            .try_catch_up_with_primary()
            .map_err(|source| StoreError::index("following", source))
    }

    fn family(&self, name: &'static str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("every family is opened or created with the database")
    }

    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db
            .get_cf(self.family(family), key)
            .map_err(|source| StoreError::index("reading", source))
    }

    fn get_json<T: DeserializeOwned>(&self, family: &'static str, key: &[u8]) -> Result<Option<T>> {
        self.get(family, key)?
            .map(|value| from_json(family, &value))
            .transpose()
    }

    /// Calls `visit` with each entry whose key begins with `prefix`, in order of keys.
    fn scan(
        &self,
        family: &'static str,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mode = IteratorMode::From(prefix, Direction::Forward);
        for entry in self.db.iterator_cf(self.family(family), mode) {
            let (key, value) = entry.map_err(|source| StoreError::index("scanning", source))?;
            if !key.starts_with(prefix) {
                break;
            }
            visit(&key, &value)?;
        }
        Ok(())
    }

    pub(crate) fn page(&self, id: &PageId) -> Result<Option<Location>> {
        self.get(PAGES, &id.0)?
            .map(|value| Location::decode(&value))
            .transpose()
    }

    /// Locations of many pages, in the order of `ids`.
    pub(crate) fn pages(&self, ids: &[PageId]) -> Result<Vec<Option<Location>>> {
        let family = self.family(PAGES);
        self.db
            .batched_multi_get_cf(family, ids.iter().map(|id| &id.0), false)
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

    fn counter(&self, key: &[u8]) -> Result<u64> {
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

    /// Begins a set of changes that becomes visible and durable as one.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            index: self,
            writes: WriteBatch::default(),
        }
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

/// Changes that are written together, or not at all.
pub(crate) struct Batch<'a> {
    index: &'a Index,
    writes: WriteBatch,
}

impl Batch<'_> {
    fn put(&mut self, family: &'static str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.writes.put_cf(self.index.family(family), key, value);
    }

    fn put_json(&mut self, family: &'static str, key: impl AsRef<[u8]>, value: &impl Serialize) {
        let json = serde_json::to_vec(value).expect("records have only string keys");
        self.put(family, key, json);
    }

    fn delete(&mut self, family: &'static str, key: impl AsRef<[u8]>) {
        self.writes.delete_cf(self.index.family(family), key);
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

    pub(crate) fn put_token(&mut self, record: &TokenRecord) {
        self.put_json(TOKENS, &record.name, record);
    }

    pub(crate) fn delete_token(&mut self, name: &str) {
        self.delete(TOKENS, name);
    }

    /// Number of changes so far.
    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// Writes all changes and waits until they survive a power cut.
    pub(crate) fn commit(self) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.index
            .db
            .write_opt(self.writes, &options)
            .map_err(|source| StoreError::index("writing", source))
    }
}
