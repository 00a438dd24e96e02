//! The bytes of an object, mostly borrowed from the executable's file.

use std::borrow::Cow;

use pool_core::ObjectId;
use pool_core::page::{PAGE_SIZE, PageCount};

/// A zero page to lend out.
static ZERO_PAGE: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// A part of a [`Content`].
#[derive(Clone, Debug)]
pub enum Piece<'a> {
    /// Bytes, borrowed from the file where file and memory pages agree.
    Bytes(Cow<'a, [u8]>),
    /// This many zeros.
    Zeros(u64),
}

impl Piece<'_> {
    /// Bytes in the piece.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(length) => *length,
        }
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most a page of it from byte `at`, which lies in it.
    fn page(&self, at: u64) -> &[u8] {
        let length = (self.len() - at).min(PAGE_SIZE) as usize;
        match self {
            Self::Bytes(bytes) => &bytes[at as usize..at as usize + length],
            Self::Zeros(_) => &ZERO_PAGE[..length],
        }
    }
}

/// An object's bytes, as pieces of whole pages; only the last piece may end within a page.
#[derive(Clone, Debug, Default)]
pub struct Content<'a> {
    pieces: Vec<Piece<'a>>,
    length: u64,
}

impl<'a> Content<'a> {
    /// Content that is one run of borrowed bytes.
    pub(super) fn borrowed(bytes: &'a [u8]) -> Self {
        let mut content = Self::default();
        content.push(Piece::Bytes(Cow::Borrowed(bytes)));
        content
    }

    /// Appends a piece; what was there before ends on a page.
    pub(super) fn push(&mut self, piece: Piece<'a>) {
        debug_assert!(self.length.is_multiple_of(PAGE_SIZE));
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Pages in all, a partial last one included.
    pub fn page_count(&self) -> PageCount {
        PageCount::covering(self.length)
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Piece<'a>] {
        &self.pieces
    }

    /// The pages, in order: slices of 4096 bytes, the last one possibly shorter.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().flat_map(|piece| {
            (0..piece.len())
                .step_by(PAGE_SIZE as usize)
                .map(|at| piece.page(at))
        })
    }

    /// All bytes in one run; copies unless there is just one piece.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        if let [Piece::Bytes(bytes)] = self.pieces.as_slice() {
            return Cow::Borrowed(bytes);
        }
        let mut all = Vec::with_capacity(self.length as usize);
        for page in self.pages() {
            all.extend_from_slice(page);
        }
        Cow::Owned(all)
    }

    /// The digest of all bytes.
    pub fn digest(&self) -> ObjectId {
        let mut hasher = blake3::Hasher::new();
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    hasher.update(bytes);
                }
                Piece::Zeros(_) => {
                    for at in (0..piece.len()).step_by(PAGE_SIZE as usize) {
                        hasher.update(piece.page(at));
                    }
                }
            }
        }
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_bytes_and_digest_agree() {
        let file = vec![7u8; 2 * PAGE_SIZE as usize];
        let mut content = Content::borrowed(&file);
        content.push(Piece::Zeros(3 * PAGE_SIZE));
        content.push(Piece::Bytes(Cow::Owned(vec![1; 100])));
        let bytes = content.bytes().into_owned();
        assert_eq!(bytes.len() as u64, content.len());
        assert_eq!(content.page_count(), PageCount(6));
        assert_eq!(content.pages().collect::<Vec<_>>().concat(), bytes);
        assert_eq!(content.digest(), ObjectId::of(&bytes));
        assert_eq!(content.pages().last().map(<[u8]>::len), Some(100));
    }
}
