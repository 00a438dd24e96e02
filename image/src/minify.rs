//! Minified images: what is left of an executable when the pages that the pool holds are taken
//! out, and how to put them back.
//!
//! The seeds' "ELF minifier", with one difference: nothing is thrown away. Headers, writable data,
//! symbols and debug information stay, so that minified image and pool together give the file
//! back, byte for byte. Taken out are
//!
//! - the pages of library versions, from an image that `pool link` laid out;
//! - all read-only pages, from any other image: it is its own library.
//!
//! # Format
//!
//! Integers are little-endian. Version 1:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic: `POOLMIN` and a zero byte |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | number of holes, *n* |
//! | 16 | 8 | length of the original in bytes |
//! | 24 | 32 | BLAKE3-256 of the original |
//! | 56 | 56 *n* | holes |
//! | 56 + 56 *n* | to the end | the bytes in no hole, in file order |
//!
//! A hole:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | offset in the original |
//! | 8 | 8 | length in bytes, not zero |
//! | 16 | 32 | digest of the object that holds the bytes |
//! | 48 | 8 | offset in that object |
//!
//! Holes are sorted by offset and disjoint. Their lengths and that of the remaining bytes add up
//! to the length of the original.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use pool_core::ObjectId;
use pool_core::description::Layout;
use thiserror::Error;

use crate::describe::{DescribedImage, ObjectRole};

/// First bytes of a minified image.
pub const MAGIC: [u8; 8] = *b"POOLMIN\0";
/// Version of the format; a reader refuses any other.
pub const VERSION: u32 = 1;

const HEADER_SIZE: usize = 56;
const HOLE_SIZE: usize = 56;

/// Why a minified image cannot be read or restored.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MinifyError {
    /// No magic.
    #[error("this is not a minified image: give a file that `pool minify` wrote")]
    NotMinified,
    /// A newer form.
    #[error("the minified image has version {0}, this program reads {VERSION}: update it")]
    Version(u32),
    /// Shorter or longer than its header says.
    #[error(
        "the minified image is damaged: it has {actual} bytes, its header asks for {expected}; \
         copy it again"
    )]
    Length {
        /// Bytes that the header and the holes ask for.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// A hole is empty, out of order or past the end.
    #[error("the minified image is damaged: hole {0} is out of place; copy it again")]
    Hole(usize),
    /// The pool does not have an object.
    #[error("object {0} is not in the pool: push the library or the image that it came from")]
    MissingObject(ObjectId),
    /// An object is too short.
    #[error(
        "object {object} has {length} bytes, the minified image asks for bytes up to {end}: check \
         the pool with `pool fsck`"
    )]
    ShortObject {
        /// The object.
        object: ObjectId,
        /// Its length.
        length: u64,
        /// Where the bytes asked for end.
        end: u64,
    },
    /// An object is not what its name says.
    #[error("object {0} has other bytes than its digest says: check the pool with `pool fsck`")]
    WrongObject(ObjectId),
    /// The result is not the original.
    #[error(
        "the restored file has digest {restored}, the original had {original}: the minified image \
         is damaged; copy it again"
    )]
    Digest {
        /// Digest in the header.
        original: ObjectId,
        /// Digest of what was restored.
        restored: ObjectId,
    },
}

/// A part of the original that an object in the pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Byte offset in the original.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The object that holds them.
    pub object: ObjectId,
    /// Byte offset in that object.
    pub object_offset: u64,
}

/// Takes the pool's pages out of an executable.
pub fn minify(image: &DescribedImage<'_>) -> Vec<u8> {
    let file = image.file();
    let holes = plan_holes(image);
    let taken: u64 = holes.iter().map(|hole| hole.length).sum();
    let size = HEADER_SIZE + holes.len() * HOLE_SIZE + file.len() - taken as usize;
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(holes.len() as u32).to_le_bytes());
    out.extend_from_slice(&(file.len() as u64).to_le_bytes());
    out.extend_from_slice(image.description.image.digest.as_bytes());
    for hole in &holes {
        out.extend_from_slice(&hole.offset.to_le_bytes());
        out.extend_from_slice(&hole.length.to_le_bytes());
        out.extend_from_slice(hole.object.as_bytes());
        out.extend_from_slice(&hole.object_offset.to_le_bytes());
    }
    let mut kept = 0;
    for hole in &holes {
        out.extend_from_slice(&file[kept..hole.offset as usize]);
        kept = (hole.offset + hole.length) as usize;
    }
    out.extend_from_slice(&file[kept..]);
    out
}

/// The holes of an image, sorted and disjoint: a file page that is mapped twice is taken out once.
fn plan_holes(image: &DescribedImage<'_>) -> Vec<Hole> {
    let taken_out = |role: &ObjectRole| match image.description.layout {
        Layout::Registered => matches!(role, ObjectRole::Library(_)),
        Layout::Own => *role == ObjectRole::Code,
    };
    let mut holes: Vec<Hole> = Vec::new();
    let mut end = 0;
    for span in image.spans() {
        let object = &image.objects[span.object];
        let span_end = span.file_offset + span.length;
        if !taken_out(&object.role) || span_end <= end {
            continue;
        }
        let skip = end.saturating_sub(span.file_offset);
        holes.push(Hole {
            offset: span.file_offset + skip,
            length: span.length - skip,
            object: object.id,
            object_offset: span.object_offset + skip,
        });
        end = span_end;
    }
    holes
}

/// Puts a minified image together again. `fetch` gives the whole content of an object.
pub fn restore<B: AsRef<[u8]>>(
    minified: &[u8],
    fetch: impl FnMut(&ObjectId) -> Option<B>,
) -> Result<Vec<u8>, MinifyError> {
    Minified::read(minified)?.restore(fetch)
}

/// A minified image, checked.
#[derive(Clone, Debug)]
pub struct Minified<'a> {
    /// Length of the original in bytes. Comes from the file: compare it with a limit of your own
    /// before restoring what a stranger sent.
    pub length: u64,
    /// Digest of the original.
    pub digest: ObjectId,
    holes: Vec<Hole>,
    rest: &'a [u8],
}

impl<'a> Minified<'a> {
    /// Reads the headers and checks that holes and bytes fit each other.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MinifyError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(MinifyError::NotMinified);
        }
        let mut fields = Fields { bytes, at: 8 };
        let version = fields.u32()?;
        if version != VERSION {
            return Err(MinifyError::Version(version));
        }
        let count = fields.u32()?;
        let length = fields.u64()?;
        let digest = fields.digest()?;
        // Before the list is allocated: it must be there.
        fields.need(count as usize * HOLE_SIZE)?;
        let holes = (0..count)
            .map(|_| {
                Ok(Hole {
                    offset: fields.u64()?,
                    length: fields.u64()?,
                    object: fields.digest()?,
                    object_offset: fields.u64()?,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let taken = check_holes(&holes, length)?;
        let rest = &bytes[fields.at..];
        let expected = length - taken;
        if rest.len() as u64 != expected {
            return Err(MinifyError::Length {
                expected: expected.saturating_add(fields.at as u64),
                actual: bytes.len() as u64,
            });
        }
        Ok(Self {
            length,
            digest,
            holes,
            rest,
        })
    }

    /// The parts to fetch, in file order.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Puts the original together. `fetch` gives the whole content of an object; it is asked once
    /// for each.
    pub fn restore<B: AsRef<[u8]>>(
        &self,
        mut fetch: impl FnMut(&ObjectId) -> Option<B>,
    ) -> Result<Vec<u8>, MinifyError> {
        let mut objects: BTreeMap<ObjectId, B> = BTreeMap::new();
        for hole in &self.holes {
            if let Entry::Vacant(vacant) = objects.entry(hole.object) {
                let content = fetch(&hole.object).ok_or(MinifyError::MissingObject(hole.object))?;
                vacant.insert(content);
            }
        }
        let mut original = Vec::new();
        let mut rest = self.rest;
        for hole in &self.holes {
            let (kept, behind) = rest.split_at(hole.offset as usize - original.len());
            original.extend_from_slice(kept);
            original.extend_from_slice(bytes_of(hole, objects[&hole.object].as_ref())?);
            rest = behind;
        }
        original.extend_from_slice(rest);
        let restored = ObjectId::of(&original);
        if restored == self.digest {
            return Ok(original);
        }
        // Only now is it worth hashing the objects: to name the part that is wrong.
        let wrong = objects
            .iter()
            .find(|(id, content)| ObjectId::of(content.as_ref()) != **id);
        Err(match wrong {
            Some((id, _)) => MinifyError::WrongObject(*id),
            None => MinifyError::Digest {
                original: self.digest,
                restored,
            },
        })
    }
}

fn bytes_of<'b>(hole: &Hole, content: &'b [u8]) -> Result<&'b [u8], MinifyError> {
    let end = hole.object_offset.saturating_add(hole.length);
    content
        .get(hole.object_offset as usize..end as usize)
        .ok_or(MinifyError::ShortObject {
            object: hole.object,
            length: content.len() as u64,
            end,
        })
}

/// Checks that holes are sorted, disjoint, not empty and within `length`; gives their sum.
fn check_holes(holes: &[Hole], length: u64) -> Result<u64, MinifyError> {
    let mut end = 0;
    let mut taken = 0;
    for (at, hole) in holes.iter().enumerate() {
        let next = hole
            .offset
            .checked_add(hole.length)
            .filter(|next| hole.length > 0 && hole.offset >= end && *next <= length)
            .ok_or(MinifyError::Hole(at))?;
        taken += hole.length;
        end = next;
    }
    Ok(taken)
}

/// Reads little-endian fields one after another.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn need(&self, size: usize) -> Result<(), MinifyError> {
        let expected = self.at.saturating_add(size) as u64;
        let actual = self.bytes.len() as u64;
        if expected <= actual {
            Ok(())
        } else {
            Err(MinifyError::Length { expected, actual })
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MinifyError> {
        self.need(N)?;
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        Ok(field)
    }

    fn u32(&mut self) -> Result<u32, MinifyError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MinifyError> {
        self.take().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Result<ObjectId, MinifyError> {
        self.take().map(ObjectId)
    }
}
