//! What the index alone knows, raw, for whoever takes a store along and makes it anew.
//!
//! Where pages and windows are can be found out from the segments, and the count of commits is an index's own: both are
//! left out. Segments' records are, too, since not every segment is taken along.

use std::ops::ControlFlow;

use super::batch::family_of;
use super::options::FAMILIES;
use super::records::{self, Records};
use super::{
    Batch, EPOCH, LIBRARIES, MANIFESTS, META, NEXT_SEGMENT, OBJECTS, PLACES, REFERENCES, REGISTRY,
    Reader, SEGMENTS, TAGS, TOKENS,
};
use crate::error::{Result, StoreError};
use crate::format::SegmentRecord;
use crate::journal::frame::Change;

/// A part of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// What a checkpoint of the journal has records of, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recorded {
    Segment,
    Kept(Kept),
}

impl Recorded {
    /// What a change is about, unless checkpoints have nothing of it.
    pub(crate) fn of(change: &Change<'_>) -> Option<Self> {
        let family = family_of(change.family)?;
        if family == SEGMENTS {
            return Some(Self::Segment);
        }
        let kept = Kept::ALL.into_iter().find(|kept| kept.family() == family)?;
        (kept != Kept::Meta || is_kept(change.key)).then_some(Self::Kept(kept))
    }

    /// What the records are called.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Segment => SEGMENTS,
            Self::Kept(kept) => kept.family(),
        }
    }

    /// Refuses what cannot be such a record.
    pub(crate) fn check(self, key: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::Segment => SegmentRecord::decode(value).map(drop),
            Self::Kept(kept) => kept.check(key, value),
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

    /// Calls `visit` with everything that a checkpoint has, in its order.
    pub(crate) fn each_recorded(
        &self,
        mut visit: impl FnMut(Recorded, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each_raw_segment(|key, value| visit(Recorded::Segment, key, value))?;
        self.each_kept_raw(|kept, key, value| visit(Recorded::Kept(kept), key, value))
    }

    /// One of these records.
    pub(crate) fn recorded(&self, what: Recorded, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(what.family(), key)
    }

    /// Reads everything there is, and looks at nothing. Answers with what cannot be read, one error for each kind of records at
    /// most, unless `step`, which is told of the bytes of each record, ends it.
    pub(crate) fn read_through(
        &self,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> ControlFlow<(), Vec<StoreError>> {
        let mut errors = Vec::new();
        for family in FAMILIES {
            let mut flow = ControlFlow::Continue(());
            let scanned = self.scan_until(family, &[], |key, value| {
                flow = step((key.len() + value.len()) as u64);
                Ok(flow)
            });
            flow?;
            errors.extend(scanned.err());
        }
        ControlFlow::Continue(errors)
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
