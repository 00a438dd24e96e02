//! Every byte that the store writes outside segments; FORMAT.md is the prose of this file.
//!
//! Encoding and decoding are pure and live together, so that a change of one without the other
//! fails the tests here. All integers are little-endian, save in keys, where they are big-endian
//! so that RocksDB sorts them by value.

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::PAGES_PER_WINDOW;

use crate::error::{Result, StoreError};

/// Name of the superblock in the store's directory.
pub const SUPERBLOCK_FILE: &str = "superblock";
/// The superblock's name until it is whole.
pub const NEW_SUPERBLOCK_FILE: &str = "superblock.new";
/// Directory of segments.
pub const SEGMENTS_DIRECTORY: &str = "segments";
/// File in it that says which store's they are.
pub const OWNER_FILE: &str = "owner";
/// The same while it is written.
pub const NEW_OWNER_FILE: &str = "owner.new";
/// Directory of the RocksDB index.
pub const INDEX_DIRECTORY: &str = "index";
/// File whose record locks are leases.
pub const LEASES_FILE: &str = "leases";
/// File that counts acknowledged commits: readers look again when it has moved, and an index that
/// knows of fewer is not the one that belongs here.
pub const GENERATION_FILE: &str = "generation";
/// Directory of the journal.
pub const JOURNAL_DIRECTORY: &str = "journal";
/// Directory for segment files that the index does not know, and for what a repair replaced.
pub const LOST_DIRECTORY: &str = "lost";
/// Directory for the contents of uploads that are not committed yet.
pub const STAGING_DIRECTORY: &str = "staging";
/// How far scrubs of the store have come.
pub const SCRUB_FILE: &str = "scrub";
/// That until it is whole.
pub const NEW_SCRUB_FILE: &str = "scrub.new";
/// What the last collections did.
pub const COLLECTIONS_FILE: &str = "collections";
/// The same while it is written.
pub const NEW_COLLECTIONS_FILE: &str = "collections.new";
/// Empty file that is there while a store is restored from a backup.
pub const RESTORING_FILE: &str = "restoring";

/// Empty file that is there from when the index was found damaged, or to differ from the journal, until it was compared again and
/// nothing was found.
pub const DISTRUSTED_FILE: &str = "distrusted";
/// Empty file that is there while a repair makes an index.
pub const REPAIRING_FILE: &str = "repairing";

/// Reads consecutive little-endian fields.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }
    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

/// Where a page or a window begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// The slot in it.
    pub slot: Slot,
}

#[cfg(test)]
impl Location {
    /// A slot of a segment.
    pub(crate) fn of(segment: u32, slot: u32) -> Self {
        Self {
            segment: SegmentId(segment),
            slot: Slot(slot),
        }
    }
}

impl Location {
    /// The location `slots` further on in the same segment.
    #[must_use]
    pub fn plus(self, slots: u32) -> Self {
        Self {
            slot: Slot(self.slot.0 + slots),
            ..self
        }
    }

    /// 8 bytes: segment, slot.
    pub fn encode(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&self.segment.0.to_le_bytes());
        out[4..].copy_from_slice(&self.slot.0.to_le_bytes());
        out
    }

    /// Reads what [`Location::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        match (fields.u32(), fields.u32(), fields.0.is_empty()) {
            (Some(segment), Some(slot), true) => Ok(Self {
                segment: SegmentId(segment),
                slot: Slot(slot),
            }),
            _ => Err(StoreError::Corrupt(format!(
                "a page location has {} bytes",
                bytes.len()
            ))),
        }
    }
}

/// What a segment is for, which says how it may be appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Whole 2 MiB windows, each owned by one object.
    Dense,
    /// Single pages.
    Sparse,
}

impl SegmentKind {
    /// Slots that are handed out together, the first of them at a multiple of so many.
    pub(crate) fn unit(self) -> u32 {
        match self {
            Self::Dense => PAGES_PER_WINDOW as u32,
            Self::Sparse => 1,
        }
    }
}

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentState {
    /// Being appended to.
    Open,
    /// Immutable.
    Sealed,
    /// Immutable, and nothing in the index refers to it: unlinked when the last lease ends.
    Retired,
}

/// What the index knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRecord {
    /// What it is for.
    pub kind: SegmentKind,
    /// Where it is in its life.
    pub state: SegmentState,
    /// Slots handed out; a power cut may leave unreferenced bytes in later slots.
    pub used: u32,
    /// Slots that the file has room for.
    pub capacity: u32,
}

impl SegmentRecord {
    /// The slots used, in whole units of the segment's kind: where the next unit goes. `None` where there is no room for one.
    pub(crate) fn next_unit(&self) -> Option<u32> {
        let unit = self.kind.unit();
        let next = self.used.checked_next_multiple_of(unit)?;
        let end = next.checked_add(unit)?;
        (end <= self.capacity).then_some(next)
    }

    /// 12 bytes: kind, state, two zeros, used, capacity.
    pub fn encode(&self) -> [u8; 12] {
        let kind = match self.kind {
            SegmentKind::Dense => 1,
            SegmentKind::Sparse => 2,
        };
        let state = match self.state {
            SegmentState::Open => 1,
            SegmentState::Sealed => 2,
            SegmentState::Retired => 3,
        };
        let mut out = [kind, state, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out[4..8].copy_from_slice(&self.used.to_le_bytes());
        out[8..].copy_from_slice(&self.capacity.to_le_bytes());
        out
    }

    /// Reads what [`SegmentRecord::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let read = || -> Option<Self> {
            let mut fields = std::mem::replace(&mut fields, Fields(&[]));
            let kind = match fields.u8()? {
                1 => SegmentKind::Dense,
                2 => SegmentKind::Sparse,
                _ => return None,
            };
            let state = match fields.u8()? {
                1 => SegmentState::Open,
                2 => SegmentState::Sealed,
                3 => SegmentState::Retired,
                _ => return None,
            };
            fields.u16()?;
            let (used, capacity) = (fields.u32()?, fields.u32()?);
            let fits = used <= capacity && fields.0.is_empty();
            fits.then_some(Self {
                kind,
                state,
                used,
                capacity,
            })
        };
        let mut read = read;
        read().ok_or_else(|| StoreError::Corrupt("a segment record cannot be read".into()))
    }
}

/// An object: its length, how it wants to lie in windows, and where its pages are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Position in its 2 MiB window at which the first page is mapped, 0 to 511.
    pub phase: u16,
    /// Length and placement.
    pub map: ExtentMap,
}

const OBJECT_VERSION: u8 = 1;
const EXTENT_DENSE: u32 = 1;
/// Bytes of an extent in the record.
const EXTENT_SIZE: usize = 24;

impl ObjectRecord {
    /// A header of 16 bytes and 24 bytes an extent.
    pub fn encode(&self) -> Vec<u8> {
        let extents = self.map.extents();
        let mut out = Vec::with_capacity(16 + EXTENT_SIZE * extents.len());
        out.extend_from_slice(&[OBJECT_VERSION, 0]);
        out.extend_from_slice(&self.phase.to_le_bytes());
        out.extend_from_slice(&(extents.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.map.length.to_le_bytes());
        for extent in extents {
            out.extend_from_slice(&extent.file_page.to_le_bytes());
            out.extend_from_slice(&extent.segment.0.to_le_bytes());
            out.extend_from_slice(&extent.slot.0.to_le_bytes());
            out.extend_from_slice(&extent.count.to_le_bytes());
            out.extend_from_slice(&(u32::from(extent.dense) * EXTENT_DENSE).to_le_bytes());
        }
        out
    }

    /// Reads what [`ObjectRecord::encode`] wrote and checks the extents.
    pub fn decode(id: ObjectId, bytes: &[u8]) -> Result<Self> {
        let corrupt = || unreadable_object(id);
        let Header {
            phase,
            length,
            extents: mut fields,
        } = Header::decode(bytes).ok_or_else(corrupt)?;
        let count = fields.0.len() / EXTENT_SIZE;
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            extents.push(Extent {
                file_page: fields.u64().ok_or_else(corrupt)?,
                segment: SegmentId(fields.u32().ok_or_else(corrupt)?),
                slot: Slot(fields.u32().ok_or_else(corrupt)?),
                count: fields.u32().ok_or_else(corrupt)?,
                dense: fields.u32().ok_or_else(corrupt)? & EXTENT_DENSE != 0,
            });
        }
        let map =
            ExtentMap::new(length, extents).map_err(|error| StoreError::Extents(id, error))?;
        Ok(Self { phase, map })
    }

    /// Bytes of the object of which [`ObjectRecord::encode`] wrote a record; its extents are not looked at.
    pub fn decode_length(id: ObjectId, bytes: &[u8]) -> Result<u64> {
        let header = Header::decode(bytes).ok_or_else(|| unreadable_object(id))?;
        Ok(header.length)
    }
}

/// What an object's record begins with, and the extents that follow.
struct Header<'a> {
    phase: u16,
    length: u64,
    extents: Fields<'a>,
}

impl<'a> Header<'a> {
    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let version = fields.u8()?;
        fields.u8()?;
        let phase = fields.u16()?;
        let count = fields.u32()? as usize;
        let length = fields.u64()?;
        let sized = count.checked_mul(EXTENT_SIZE) == Some(fields.0.len());
        let is_right = version == OBJECT_VERSION && u64::from(phase) < PAGES_PER_WINDOW && sized;
        is_right.then_some(Self {
            phase,
            length,
            extents: fields,
        })
    }
}

fn unreadable_object(id: ObjectId) -> StoreError {
    StoreError::Corrupt(format!("the record of object {id} cannot be read"))
}

/// Who refers to what, as the index of references has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A tag of a manifest.
    Tag {
        /// The manifest.
        manifest: ObjectId,
        /// The tag.
        image: ImageRef,
    },
    /// A manifest that uses a library version.
    User {
        /// The library version.
        library: LibraryRef,
        /// The manifest.
        manifest: ObjectId,
    },
}

/// Keys of the `references` column family: who refers to what.
pub mod reference_key {
    use pool_core::digest::ObjectId;
    use pool_core::name::{ImageRef, LibraryRef};

    use super::Reference;

    const TAG_OF_MANIFEST: u8 = 1;
    const MANIFEST_OF_LIBRARY: u8 = 2;

    /// Prefix of all tags of a manifest.
    pub fn tags_of(manifest: ObjectId) -> Vec<u8> {
        [&[TAG_OF_MANIFEST][..], &manifest.0].concat()
    }

    /// `image` is a tag of `manifest`.
    pub fn tag_of(manifest: ObjectId, image: &ImageRef) -> Vec<u8> {
        [tags_of(manifest), image.to_string().into_bytes()].concat()
    }

    /// Prefix of all manifests that use a library version.
    pub fn users_of(library: &LibraryRef) -> Vec<u8> {
        [
            &[MANIFEST_OF_LIBRARY][..],
            library.to_string().as_bytes(),
            &[0],
        ]
        .concat()
    }

    /// Reads a key; `None` when it is none of these.
    pub fn parse(key: &[u8]) -> Option<Reference> {
        match key.split_first()? {
            (&TAG_OF_MANIFEST, rest) => {
                let (manifest, image) = rest.split_at_checked(32)?;
                Some(Reference::Tag {
                    manifest: ObjectId::from_slice(manifest)?,
                    image: std::str::from_utf8(image).ok()?.parse().ok()?,
                })
            }
            (&MANIFEST_OF_LIBRARY, rest) => {
                let (library, manifest) = rest.split_at_checked(rest.len().checked_sub(32)?)?;
                let library = library.strip_suffix(&[0])?;
                Some(Reference::User {
                    library: std::str::from_utf8(library).ok()?.parse().ok()?,
                    manifest: ObjectId::from_slice(manifest)?,
                })
            }
            _ => None,
        }
    }

    /// `manifest` uses `library`.
    pub fn user_of(library: &LibraryRef, manifest: ObjectId) -> Vec<u8> {
        [users_of(library), manifest.0.to_vec()].concat()
    }
}

/// Records of damaged slots, in `meta`.
pub(crate) mod damaged {
    use pool_core::digest::{DIGEST_SIZE, PageId, WindowId};
    use pool_core::extent::{SegmentId, Slot};

    use super::Location;
    use crate::damage::Expected;

    /// Before segment and slot, both big-endian.
    pub(crate) const PREFIX: &[u8] = b"damaged/";

    pub(crate) fn key(at: Location) -> Vec<u8> {
        let (segment, slot) = (at.segment.0.to_be_bytes(), at.slot.0.to_be_bytes());
        [PREFIX, &segment, &slot].concat()
    }

    /// The digest of the page, and that of the window; zeros stand for what is not known.
    pub(crate) fn encode(expected: Expected) -> [u8; 2 * DIGEST_SIZE] {
        let mut out = [0; 2 * DIGEST_SIZE];
        let (page, window) = out.split_at_mut(DIGEST_SIZE);
        page.copy_from_slice(&expected.page.map_or([0; DIGEST_SIZE], |id| id.0));
        window.copy_from_slice(&expected.window.map_or([0; DIGEST_SIZE], |id| id.0));
        out
    }

    /// Reads a record; `None` when it is none.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<(Location, Expected)> {
        let at = key.strip_prefix(PREFIX)?;
        let (segment, slot) = at.split_at_checked(4)?;
        let at = Location {
            segment: SegmentId(u32::from_be_bytes(segment.try_into().ok()?)),
            slot: Slot(u32::from_be_bytes(slot.try_into().ok()?)),
        };
        let (page, window) = value.split_at_checked(DIGEST_SIZE)?;
        let page: [u8; DIGEST_SIZE] = page.try_into().ok()?;
        let window: [u8; DIGEST_SIZE] = window.try_into().ok()?;
        let is_known = |digest: &[u8; DIGEST_SIZE]| *digest != [0; DIGEST_SIZE];
        let expected = Expected {
            page: Some(page).filter(is_known).map(PageId),
            window: Some(window).filter(is_known).map(WindowId),
        };
        Some((at, expected))
    }
}

#[cfg(test)]
mod tests {
    use pool_core::digest::PageId;

    use super::*;
    use crate::damage::Expected;

    #[test]
    fn records_round_trip() {
        let location = Location {
            segment: SegmentId(3),
            slot: Slot(0x0102_0304),
        };
        assert_eq!(Location::decode(&location.encode()).unwrap(), location);
        assert!(Location::decode(&[0; 7]).is_err());
        assert!(Location::decode(&[0; 9]).is_err());

        let segment = SegmentRecord {
            kind: SegmentKind::Sparse,
            state: SegmentState::Sealed,
            used: 5,
            capacity: 512,
        };
        assert_eq!(SegmentRecord::decode(&segment.encode()).unwrap(), segment);
        let mut overfull = segment.encode();
        overfull[5] = 9;
        assert!(SegmentRecord::decode(&overfull).is_err());

        let expected = Expected {
            page: Some(PageId::of(b"page")),
            window: None,
        };
        let (key, value) = (damaged::key(location), damaged::encode(expected));
        assert_eq!(key, b"damaged/\x00\x00\x00\x03\x01\x02\x03\x04");
        assert_eq!(damaged::decode(&key, &value), Some((location, expected)));
        assert_eq!(damaged::decode(&key[..15], &value), None);
        assert_eq!(damaged::decode(&key, &value[..63]), None);

        let id = ObjectId::of(b"object");
        let extent = Extent {
            file_page: 1,
            segment: SegmentId(2),
            slot: Slot(512),
            count: 3,
            dense: true,
        };
        let object = ObjectRecord {
            phase: 511,
            map: ExtentMap::new(20_000, vec![extent]).unwrap(),
        };
        let bytes = object.encode();
        assert_eq!(bytes.len(), 40);
        assert_eq!(ObjectRecord::decode(id, &bytes).unwrap(), object);
        for length in 0..bytes.len() {
            assert!(
                ObjectRecord::decode(id, &bytes[..length]).is_err(),
                "length {length}"
            );
        }
    }
}
