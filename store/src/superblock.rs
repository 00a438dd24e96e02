//! The superblock: what identifies a store and says who may open it.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};

use crate::directory;
use crate::error::{Result, StoreError};
use crate::format::{self, Fields};
use crate::small_file;

/// Version of the format that this release writes.
pub const FORMAT_VERSION: u32 = 1;
const SUPERBLOCK_SIZE: usize = 128;
const SUPERBLOCK_MAGIC: &[u8; 8] = b"POOLSTOR";

/// Features that older programs may ignore.
pub const COMPATIBLE_FEATURES: u64 = 0;
/// Features that allow older programs to read, not to write.
pub const READ_ONLY_COMPATIBLE_FEATURES: u64 = FEATURE_MARKED | FEATURE_JOURNAL | FEATURE_MASKED;
/// The index carries the store's identity and counts its commits, and `generation` is written before
/// a commit is answered. A program that does not know it would commit without counting.
pub const FEATURE_MARKED: u64 = 1;
/// Every commit is in the journal. A program that does not know it would leave its commits out.
pub const FEATURE_JOURNAL: u64 = 2;
/// Logs of the journal may be masked. A program that does not know it can read none of them.
pub const FEATURE_MASKED: u64 = 4;
/// Features that older programs must not touch.
pub const INCOMPATIBLE_FEATURES: u64 = 0;

/// Smallest and largest segment that a superblock may ask for.
pub const SEGMENT_BYTES_RANGE: std::ops::RangeInclusive<u64> = WINDOW_SIZE..=(1 << 34);

/// What identifies a store and says who may open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Format version.
    pub version: u32,
    /// Compatible feature bits.
    pub compatible: u64,
    /// Read-only-compatible feature bits.
    pub read_only_compatible: u64,
    /// Incompatible feature bits.
    pub incompatible: u64,
    /// Bytes of a segment, a multiple of 2 MiB.
    pub segment_bytes: u64,
    /// Random identity of the store.
    pub identity: [u8; 16],
}

impl Superblock {
    /// True when the index must carry the store's identity and a count of commits.
    pub fn is_marked(&self) -> bool {
        self.read_only_compatible & FEATURE_MARKED != 0
    }

    /// True when the store has a journal, and may not be written to without it.
    pub fn is_journaled(&self) -> bool {
        self.read_only_compatible & FEATURE_JOURNAL != 0
    }

    /// True when new logs of the journal are masked.
    pub fn is_masked(&self) -> bool {
        self.read_only_compatible & FEATURE_MASKED != 0
    }

    /// True when this program may read the store and not write to it: files of it may be in forms that it does not know.
    pub fn is_of_newer_release(&self) -> bool {
        self.read_only_compatible & !READ_ONLY_COMPATIBLE_FEATURES != 0
    }

    /// The bytes of the superblock file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUPERBLOCK_SIZE);
        out.extend_from_slice(SUPERBLOCK_MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&self.compatible.to_le_bytes());
        out.extend_from_slice(&self.read_only_compatible.to_le_bytes());
        out.extend_from_slice(&self.incompatible.to_le_bytes());
        out.extend_from_slice(&self.segment_bytes.to_le_bytes());
        out.extend_from_slice(&self.identity);
        out.resize(SUPERBLOCK_SIZE - 32, 0);
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// Reads a superblock; `Err` says in words what is wrong or unknown. `writable` tells whether
    /// the store is to be changed.
    pub fn decode(bytes: &[u8], writable: bool) -> std::result::Result<Self, SuperblockError> {
        let damaged = |why: &str| Err(SuperblockError::Damaged(why.into()));
        if bytes.get(..8) != Some(SUPERBLOCK_MAGIC) {
            return damaged("its superblock does not begin with POOLSTOR");
        }
        let mut fields = Fields(&bytes[8..]);
        let version = fields.u32().unwrap_or(0);
        if version > FORMAT_VERSION {
            return Err(SuperblockError::Unsupported(format!(
                "has format version {version}, this program knows {FORMAT_VERSION}"
            )));
        }
        if bytes.len() != SUPERBLOCK_SIZE {
            return damaged("its superblock has the wrong length");
        }
        let (content, checksum) = bytes.split_at(SUPERBLOCK_SIZE - 32);
        if blake3::hash(content).as_bytes() != checksum {
            return damaged("the checksum of its superblock is wrong");
        }
        let read = || -> Option<(u32, Self)> {
            let page_size = fields.u32()?;
            let superblock = Self {
                version,
                compatible: fields.u64()?,
                read_only_compatible: fields.u64()?,
                incompatible: fields.u64()?,
                segment_bytes: fields.u64()?,
                identity: fields.take(16)?.try_into().ok()?,
            };
            Some((page_size, superblock))
        };
        let mut read = read;
        let Some((page_size, superblock)) = read() else {
            return damaged("its superblock is too short");
        };
        let unknown = superblock.incompatible & !INCOMPATIBLE_FEATURES;
        if unknown != 0 {
            return Err(SuperblockError::Unsupported(format!(
                "needs features that this program lacks (bits {unknown:#x})"
            )));
        }
        let unknown = superblock.read_only_compatible & !READ_ONLY_COMPATIBLE_FEATURES;
        if writable && unknown != 0 {
            return Err(SuperblockError::Unsupported(format!(
                "can only be read by this program (unknown feature bits {unknown:#x})"
            )));
        }
        let sized = superblock.segment_bytes.is_multiple_of(WINDOW_SIZE)
            && SEGMENT_BYTES_RANGE.contains(&superblock.segment_bytes);
        if u64::from(page_size) != PAGE_SIZE || !sized {
            return damaged("its page or segment size is impossible");
        }
        Ok(superblock)
    }
}

/// Why a superblock is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// No superblock, or a spoilt one.
    Damaged(String),
    /// A form of a newer release.
    Unsupported(String),
}

impl Superblock {
    /// Reads and checks the superblock of the store in `directory`.
    pub(crate) fn read(directory: &Path, writable: bool) -> Result<Self> {
        let path = directory.join(format::SUPERBLOCK_FILE);
        let not_a_store = |why: String| StoreError::NotAStore {
            path: directory.into(),
            why,
        };
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_a_store(directory::without_superblock(directory).into()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(not_a_store("it is not a directory".into()));
            }
            Err(source) => return Err(StoreError::io("reading", path, source)),
        };
        let Some(bytes) = bytes else {
            return Err(not_a_store(
                "its superblock is not a file; put one back from a copy of this directory (what pool backup makes has none)".into(),
            ));
        };
        Self::decode(&bytes, writable).map_err(|error| match error {
            SuperblockError::Damaged(why) => not_a_store(format!(
                "{why}; it hardly ever changes, so put one back from a copy of this directory (what pool backup makes has none)"
            )),
            SuperblockError::Unsupported(what) => StoreError::Unsupported {
                path: directory.into(),
                what,
            },
        })
    }

    /// Writes the superblock whole, or not at all.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(format::SUPERBLOCK_FILE);
        let temporary = directory.join(format::NEW_SUPERBLOCK_FILE);
        small_file::replace_durably(&path, &temporary, &self.encode())
    }
}

/// What a superblock can have of a file's content; `None` of what is no file, without waiting for who writes to a pipe.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more tells that it is too long, however long it is.
    file.take(SUPERBLOCK_SIZE as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            version: FORMAT_VERSION,
            compatible: 0,
            read_only_compatible: 0,
            incompatible: 0,
            segment_bytes: 64 << 20,
            identity: [7; 16],
        }
    }

    #[test]
    fn superblock_round_trips_and_keeps_its_place() {
        let bytes = superblock().encode();
        assert_eq!(bytes.len(), 128);
        assert_eq!(&bytes[..8], b"POOLSTOR");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(Superblock::decode(&bytes, true), Ok(superblock()));
    }

    #[test]
    fn compatible_features_are_ignored_and_the_others_refused() {
        let compatible = Superblock {
            compatible: 1 << 63,
            ..superblock()
        };
        assert!(Superblock::decode(&compatible.encode(), true).is_ok());
        let read_only = Superblock {
            read_only_compatible: 1 << 40,
            ..superblock()
        }
        .encode();
        assert!(Superblock::decode(&read_only, false).is_ok());
        let unsupported = |bytes: &[u8], writable| {
            matches!(
                Superblock::decode(bytes, writable),
                Err(SuperblockError::Unsupported(_))
            )
        };
        assert!(unsupported(&read_only, true));
        let incompatible = Superblock {
            incompatible: 1,
            ..superblock()
        }
        .encode();
        assert!(unsupported(&incompatible, false));
        let newer = Superblock {
            version: 2,
            ..superblock()
        }
        .encode();
        assert!(unsupported(&newer, false));
    }

    #[test]
    fn damage_to_the_superblock_is_found() {
        let bytes = superblock().encode();
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x40;
            assert!(Superblock::decode(&spoilt, false).is_err(), "byte {at}");
        }
        for length in [0, 7, 8, 12, 127] {
            assert!(
                Superblock::decode(&bytes[..length], false).is_err(),
                "length {length}"
            );
        }
        let odd = Superblock {
            segment_bytes: 3 << 20,
            ..superblock()
        }
        .encode();
        assert!(Superblock::decode(&odd, false).is_err());
    }
}
