//! What the index alone knows, raw, for whoever takes a store along and makes it anew.
//!
//! Where pages and windows are can be found out from the segments, and the count of commits is an index's own: both are
//! left out. Segments' records are, too, since not every segment is taken along.

use super::options::FAMILIES;
use super::records::{self, Records};
use super::{
    Batch, EPOCH, LIBRARIES, MANIFESTS, META, NEXT_SEGMENT, OBJECTS, PLACES, REFERENCES, REGISTRY,
    Reader, SEGMENTS, TAGS, TOKENS,
};
use crate::error::{Result, StoreError};

/// A part of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Counters, and where everything is in library versions.
    Meta,
    Objects,
    Libraries,
    Tags,
    Manifests,
    References,
    Registry,
    Tokens,
}

impl Kept {
    pub(crate) const ALL: [Self; 8] = [
        Self::Meta,
        Self::Objects,
        Self::Libraries,
        Self::Tags,
        Self::Manifests,
        Self::References,
        Self::Registry,
        Self::Tokens,
    ];

    /// Number of the next segment, if a record of [`Kept::Meta`] that was checked is the one that tells.
    pub(crate) fn next_segment(key: &[u8], value: &[u8]) -> Option<u64> {
        let bytes = value.try_into().ok().filter(|_| key == NEXT_SEGMENT);
        bytes.map(u64::from_le_bytes)
    }

    fn family(self) -> &'static str {
        match self {
            Self::Meta => META,
            Self::Objects => OBJECTS,
            Self::Libraries => LIBRARIES,
            Self::Tags => TAGS,
            Self::Manifests => MANIFESTS,
            Self::References => REFERENCES,
            Self::Registry => REGISTRY,
            Self::Tokens => TOKENS,
        }
    }

    /// Refuses what cannot be a record of this part.
    pub(crate) fn check(self, key: &[u8], value: &[u8]) -> Result<()> {
        fn read<T>(kind: &Records<T>, key: &[u8], value: &[u8]) -> Result<()> {
            (kind.read)(key, value).map(drop)
        }
        let impossible =
            |what: &str| Err(StoreError::Corrupt(format!("{}: {what}", self.family())));
        match self {
            Self::Meta if !is_kept(key) => impossible("a key that has no meaning"),
            Self::Meta if !key.starts_with(PLACES) && value.len() != 8 => {
                impossible("a counter that is not 8 bytes")
            }
            Self::Meta => Ok(()),
            Self::Objects => read(&records::OBJECTS, key, value),
            Self::Libraries => read(&records::LIBRARIES, key, value),
            Self::Tags => read(&records::TAGS, key, value),
            Self::Manifests => read(&records::MANIFESTS, key, value),
            Self::References => read(&records::REFERENCES, key, value),
            Self::Registry if key.len() != 8 => impossible("a sequence number that is not 8 bytes"),
            Self::Registry => read(&records::RESERVATIONS, key, value),
            Self::Tokens => read(&records::TOKENS, key, value),
        }
    }
}

/// What of `meta` is not an index's own.
fn is_kept(key: &[u8]) -> bool {
    key == EPOCH || key == NEXT_SEGMENT || key.starts_with(PLACES)
}

impl Reader<'_> {
    /// Calls `visit` with every record, part after part and in order of keys; one that cannot be read is an error.
    pub(crate) fn each_kept(
        &self,
        mut visit: impl FnMut(Kept, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each_kept_raw(|kept, key, value| {
            kept.check(key, value)?;
            visit(kept, key, value)
        })
    }

    /// As [`Reader::each_kept`], whatever the records are.
    pub(crate) fn each_kept_raw(
        &self,
        mut visit: impl FnMut(Kept, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        for kept in Kept::ALL {
            self.scan(kept.family(), &[], |key, value| {
                if kept == Kept::Meta && !is_kept(key) {
                    return Ok(());
                }
                visit(kept, key, value)
            })?;
        }
        Ok(())
    }

    /// Calls `visit` with the key and the record of every segment, whatever they are.
    pub(crate) fn each_raw_segment(
        &self,
        visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.scan(SEGMENTS, &[], visit)
    }

    /// Reads everything there is, and looks at nothing: what cannot be read is found.
    pub(crate) fn read_through(&self) -> Result<()> {
        FAMILIES
            .into_iter()
            .try_for_each(|family| self.scan(family, &[], |_, _| Ok(())))
    }
}

impl Batch<'_> {
    /// Puts a record back as [`Reader::each_kept`] had it.
    pub(crate) fn put_kept(&mut self, kept: Kept, key: &[u8], value: &[u8]) {
        self.put(kept.family(), key, value);
    }

    /// Puts a segment's record back as [`Reader::each_raw_segment`] had it.
    pub(crate) fn put_raw_segment(&mut self, key: &[u8], value: &[u8]) {
        self.put(SEGMENTS, key, value);
    }

    /// Bytes that the changes so far take up, at least.
    pub(crate) fn size(&self) -> usize {
        self.changes().len()
    }
}
