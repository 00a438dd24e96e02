//! The list of a segment's pages, beside its copy: what each slot must have.
//!
//! FORMAT.md has the bytes. A list is written after the copy that it is of, and its presence says that the copy is whole.

use std::io::{self, Read as _};
use std::path::Path;

use pool_core::digest::{DIGEST_SIZE, PageId};
use pool_core::extent::SegmentId;
use pool_core::page::PAGE_SIZE;

use super::unusable;
use crate::backend::read_file;
use crate::error::{Result, StoreError};
use crate::format::Fields;
use crate::small_file;
use crate::superblock::SEGMENT_BYTES_RANGE;

const MAGIC: &[u8; 8] = b"POOLPAGE";
const VERSION: u32 = 1;
const HEADER: usize = 64;

/// What the last bytes of a list say: the digest of all before.
pub(super) type ListDigest = [u8; DIGEST_SIZE];

/// Bytes of a list of `slots` pages.
const fn length_of(slots: u64) -> u64 {
    HEADER as u64 + (slots + 1) * DIGEST_SIZE as u64
}

/// The pages of a segment's used slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageList {
    /// The store's identity.
    pub(super) store: [u8; 16],
    pub(super) segment: SegmentId,
    /// Digests by slot; `None` is a page of zeros.
    pub(super) pages: Vec<Option<PageId>>,
}

impl PageList {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + (self.pages.len() + 1) * DIGEST_SIZE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.segment.0.to_le_bytes());
        out.extend_from_slice(&self.store);
        out.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        out.resize(HEADER, 0);
        for page in &self.pages {
            out.extend_from_slice(&page.map_or([0; DIGEST_SIZE], |id| id.0));
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// What tells this list from all others.
    pub(super) fn digest(&self) -> ListDigest {
        let encoded = self.encode();
        *encoded.last_chunk().expect("a digest comes last")
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_SIZE)?)?;
        if blake3::hash(content) != *<&[u8; DIGEST_SIZE]>::try_from(digest).ok()? {
            return None;
        }
        let (header, pages) = content.split_at_checked(HEADER)?;
        let mut fields = Fields(header);
        let begins = fields.take(8)? == MAGIC && fields.u32()? == VERSION;
        let segment = SegmentId(fields.u32()?);
        let store = fields.take(16)?.try_into().ok()?;
        let (pages, rest) = (pages.chunks_exact(DIGEST_SIZE), fields.u32()? as usize);
        if !begins || !pages.remainder().is_empty() || pages.len() != rest {
            return None;
        }
        let page = |digest| PageId::from_slice(digest).filter(|id| id.0 != [0; DIGEST_SIZE]);
        Some(Self {
            store,
            segment,
            pages: pages.map(page).collect(),
        })
    }

    /// Reads the list at `path`; `None` when there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let failed = |error| StoreError::io("reading", path, error);
        let mut file = match read_file(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let wrong = || unusable(path, "is not a list of pages, or it is damaged");
        if file.metadata().map_err(failed)?.len() > length_of(SEGMENT_BYTES_RANGE.end() / PAGE_SIZE)
        {
            return Err(wrong());
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        Self::decode(&bytes).map(Some).ok_or_else(wrong)
    }

    /// Writes the list to `path` by way of `new`, whole or not at all. The name is durable once its directory is synced.
    pub(super) fn write(&self, path: &Path, new: &Path) -> Result<()> {
        small_file::replace_synced(path, new, &self.encode())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_list_is_read_back_and_any_other_byte_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert_eq!(PageList::read(&path("list")).unwrap(), None);
        let list = PageList {
            store: [3; 16],
            segment: SegmentId(0x0102_0304),
            pages: vec![Some(PageId::of(b"a")), None, Some(PageId::of(b"b"))],
        };
        list.write(&path("list"), &path("new")).unwrap();
        assert_eq!(PageList::read(&path("list")).unwrap(), Some(list.clone()));
        assert_eq!(
            list.digest(),
            PageList::decode(&fs::read(path("list")).unwrap())
                .unwrap()
                .digest()
        );
        fs::File::create(path("endless"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let endless = PageList::read(&path("endless")).unwrap_err();
        assert!(endless.to_string().contains("not a list"), "{endless}");
        let bytes = fs::read(path("list")).unwrap();
        assert_eq!(bytes.len() as u64, length_of(3));
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 1;
            assert!(PageList::decode(&spoilt).is_none(), "byte {at}");
            assert!(PageList::decode(&bytes[..at]).is_none(), "length {at}");
        }
    }

    #[test]
    fn a_list_with_a_right_digest_and_a_wrong_count_is_none() {
        for count in [0u32, 2, u32::MAX] {
            let list = PageList {
                store: [0; 16],
                segment: SegmentId(1),
                pages: vec![None],
            };
            let mut bytes = list.encode();
            bytes.truncate(bytes.len() - DIGEST_SIZE);
            bytes[32..36].copy_from_slice(&count.to_le_bytes());
            let digest = *blake3::hash(&bytes).as_bytes();
            bytes.extend_from_slice(&digest);
            assert_eq!(PageList::decode(&bytes), None, "{count}");
        }
    }
}
