//! Forms that are not JSON objects: lists of digests in announcements, records of pages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pool_core::digest::{DIGEST_SIZE, PageId};
use pool_core::page::PAGE_SIZE;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes of a page record: the page's digest, then the page, the last one of an object padded
/// with zeros.
pub const RECORD_SIZE: usize = DIGEST_SIZE + PAGE_SIZE as usize;

/// Bytes that a page takes in the text of a list.
pub const LISTED_PAGE_SIZE: u64 = (DIGEST_SIZE as u64 * 4).div_ceil(3);

/// Digests of pages, one after another; `None` is a page of zeros, written as 32 zero bytes.
///
/// In JSON it is one base64 string: 43 bytes a page, where a list of hexadecimal strings would
/// take 67.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageList(pub Vec<Option<PageId>>);

/// Stands for a page of zeros, which no digest is known to collide with.
const ZERO: [u8; DIGEST_SIZE] = [0; DIGEST_SIZE];

impl PageList {
    /// A list without pages of zeros.
    pub fn of(pages: &[PageId]) -> Self {
        Self(pages.iter().copied().map(Some).collect())
    }

    /// The pages that are not zeros.
    pub fn stored(&self) -> impl Iterator<Item = PageId> + '_ {
        self.0.iter().flatten().copied()
    }
}

impl Serialize for PageList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.len() * DIGEST_SIZE);
        for page in &self.0 {
            bytes.extend_from_slice(page.as_ref().map_or(&ZERO[..], |id| id.as_bytes()));
        }
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for PageList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|error| {
            de::Error::custom(format!("a list of pages is not base64: {error}"))
        })?;
        if !bytes.len().is_multiple_of(DIGEST_SIZE) {
            return Err(de::Error::custom(format!(
                "a list of pages has {} bytes, not a multiple of {DIGEST_SIZE}",
                bytes.len()
            )));
        }
        let page = |digest: &[u8]| {
            if digest == ZERO {
                None
            } else {
                PageId::from_slice(digest)
            }
        };
        Ok(Self(bytes.chunks_exact(DIGEST_SIZE).map(page).collect()))
    }
}

/// Appends the record of a page whose first bytes are `bytes`, at most 4096, and whose rest is
/// zero.
pub fn push_record(out: &mut Vec<u8>, id: PageId, bytes: &[u8]) {
    debug_assert!(bytes.len() as u64 <= PAGE_SIZE);
    let end = out.len() + RECORD_SIZE;
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(bytes);
    out.resize(end, 0);
}

/// The whole records at the start of `bytes`.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = (PageId, &[u8])> {
    bytes.chunks_exact(RECORD_SIZE).filter_map(|record| {
        let (digest, page) = record.split_at(DIGEST_SIZE);
        Some((PageId::from_slice(digest)?, page))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_lists_round_trip_and_refuse_what_is_none() {
        let list = PageList(vec![Some(PageId::of(b"a")), None, Some(PageId::of(b"b"))]);
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(json.len(), 3 * DIGEST_SIZE * 4 / 3 + 2);
        assert_eq!(serde_json::from_str::<PageList>(&json).unwrap(), list);
        assert_eq!(list.stored().count(), 2);
        for bad in ["\"AAAA\"", "\"*\"", "[]", "7"] {
            assert!(serde_json::from_str::<PageList>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn records_are_padded_and_read_back() {
        let mut out = Vec::new();
        let full = [7; PAGE_SIZE as usize];
        push_record(&mut out, PageId::of(b"tail"), b"tail");
        push_record(&mut out, PageId::of(&full), &full);
        out.extend_from_slice(b"half a record");
        let read: Vec<_> = records(&out).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].0, PageId::of(b"tail"));
        assert_eq!((&read[0].1[..4], read[0].1[4095]), (&b"tail"[..], 0));
        assert_eq!(read[1], (PageId::of(&full), &full[..]));
    }
}
