//! Typed reading: the keys and records of FORMAT.md, as they are now or in one state.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use rocksdb::{Direction, IteratorMode, ReadOptions};
use serde::de::DeserializeOwned;

use super::pending::{self, Pending, Reads, Visit};
use super::records::{self, Records, from_json};
use super::state::State;
use super::{
    COMMITS, EPOCH, FRAME, Index, META, NEXT_SEGMENT, OBJECTS, PAGES, Pin, SEGMENTS, WINDOWS,
    failed,
};
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentRecord};
use crate::journal::frame::Digest;

/// Everything that the index can be asked: in one state of it while a pin lasts, or in whatever it
/// is at each question.
pub struct Reader<'a> {
    index: &'a Index,
    pin: Option<Pin<'a>>,
    /// Changes that are taken for made, the last ones last.
    pending: Vec<Arc<Pending>>,
    /// What is asked, while somebody wants to know.
    noted: Mutex<Option<Reads>>,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("index", self.index)
            .field("pinned", &self.pin.is_some())
            .finish()
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(index: &'a Index, pin: Option<Pin<'a>>) -> Self {
        let pending = match &pin {
            Some(Pin::Standstill(standstill)) => standstill.state().above().cloned().collect(),
            _ => Vec::new(),
        };
        Self {
            index,
            pin,
            pending,
            noted: Mutex::default(),
        }
    }

    pub(super) fn ahead(index: &'a Index, pending: Vec<Arc<Pending>>) -> Self {
        Self {
            index,
            pin: None,
            pending,
            noted: Mutex::default(),
        }
    }

    /// Refuses what a follower does not have.
    pub(super) fn check_has(&self, family: &'static str) -> Result<()> {
        self.index.check_has(family)
    }

    /// False of a reader that does not [know single pages](crate::StoreView::follow_closely).
    pub fn follows_pages(&self) -> bool {
        self.check_has(PAGES).is_ok()
    }

    fn stands_still(&self) -> Option<&State> {
        match &self.pin {
            Some(Pin::Standstill(standstill)) => Some(standstill.state()),
            _ => None,
        }
    }

    /// A number that all readers of the same state of a follower's index share, and no reader of another; none in the process
    /// that writes, whose states nobody counts.
    pub fn state(&self) -> Option<u64> {
        self.stands_still().map(State::number)
    }

    /// Runs `ask`, which asks this reader alone, and answers with what it asked, too.
    pub fn noting<T>(&self, ask: impl FnOnce() -> Result<T>) -> Result<(T, Reads)> {
        let noted = || self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = noted().replace(Reads::default());
        let answer = ask();
        let reads = std::mem::replace(&mut *noted(), before).unwrap_or_default();
        Ok((answer?, reads))
    }

    /// True if all `reads` of the state of the number `since` are in this state as they were. False also where that is not known.
    pub fn keeps(&self, reads: &Reads, since: u64) -> bool {
        self.stands_still()
            .is_some_and(|state| state.keeps(reads, since))
    }

    fn note(&self, add: impl FnOnce(&mut Reads)) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reads) = noted.as_mut() {
            add(reads);
        }
    }

    /// One for a single question, where this is a follower's that is not pinned: what the database has and what comes on top of it are
    /// of one state.
    fn for_a_question(&self) -> Option<Reader<'_>> {
        (self.pin.is_none() && self.index.is_follower()).then(|| self.index.pinned())
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if let Some(Pin::Snapshot(snapshot)) = &self.pin {
            options.set_snapshot(snapshot);
        }
        options
    }

    pub(super) fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(reader) = self.for_a_question() {
            return reader.get(family, key);
        }
        self.check_has(family)?;
        self.note(|reads| reads.add_key(family, key));
        let mut pending = self.pending.iter().rev();
        if let Some(value) = pending.find_map(|pending| pending.get(family, key)) {
            return Ok(value.value().map(<[u8]>::to_vec));
        }
        self.index
            .with_db(|db| db.get_cf_opt(super::family(db, family), key, &self.options()))
            .map_err(|source| failed("reading", source))
    }

    pub(super) fn get_json<T: DeserializeOwned>(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<T>> {
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
        self.scan_until(family, prefix, |key, value| {
            visit(key, value).map(ControlFlow::Continue)
        })
    }

    /// True when `test` holds of a key that begins with `prefix`. Looks no further than that one.
    pub(super) fn any(
        &self,
        family: &'static str,
        prefix: &[u8],
        mut test: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<bool> {
        let mut found = false;
        self.scan_until(family, prefix, |key, _| {
            found = test(key)?;
            Ok(if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(found)
    }

    pub(super) fn scan_until(
        &self,
        family: &'static str,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if let Some(reader) = self.for_a_question() {
            return reader.scan_until(family, prefix, visit);
        }
        self.check_has(family)?;
        self.note(|reads| reads.add_prefix(family, prefix));
        if self.pending.is_empty() {
            return self.scan_stored(family, prefix, &mut visit);
        }
        pending::merge(&self.pending, family, prefix, visit, |visit| {
            self.scan_stored(family, prefix, visit)
        })
    }

    fn scan_stored(
        &self,
        family: &'static str,
        prefix: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        self.index.with_db(|db| {
            let mode = IteratorMode::From(prefix, Direction::Forward);
            let family = super::family(db, family);
            for entry in db.iterator_cf_opt(family, self.options(), mode) {
                let (key, value) = entry.map_err(|source| failed("scanning", source))?;
                if !key.starts_with(prefix) || visit(&key, &value)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Where a page is kept.
    pub fn page(&self, id: &PageId) -> Result<Option<Location>> {
        let mut pending = self.pending.iter().rev();
        if let Some(at) = pending.find_map(|pending| pending.page(id)) {
            return Ok(at.value());
        }
        self.get(PAGES, &id.0)?
            .map(|value| Location::decode(&value))
            .transpose()
    }

    /// Locations of many pages, in the order of `ids`. The more at once, the less each costs.
    pub(crate) fn pages(&self, ids: &[PageId]) -> Result<Vec<Option<Location>>> {
        if let Some(reader) = self.for_a_question() {
            return reader.pages(ids);
        }
        self.check_has(PAGES)?;
        self.note(|reads| ids.iter().for_each(|id| reads.add_key(PAGES, &id.0)));
        // In order of keys: then each is looked for from where the one before was found.
        let mut order: Vec<_> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|nth| ids[*nth].0);
        let mut found = vec![None; ids.len()];
        self.index.with_db(|db| {
            let keys = order.iter().map(|nth| &ids[*nth].0);
            let values =
                db.batched_multi_get_cf_opt(super::family(db, PAGES), keys, true, &self.options());
            for (nth, value) in order.iter().zip(values) {
                let value = value.map_err(|source| failed("reading", source))?;
                found[*nth] = value.map(|value| Location::decode(&value)).transpose()?;
            }
            Ok(())
        })?;
        for pending in &self.pending {
            for (id, at) in ids.iter().zip(&mut found) {
                if let Some(becomes) = pending.page(id) {
                    *at = becomes.value();
                }
            }
        }
        Ok(found)
    }

    /// Where a densely stored window begins.
    pub(crate) fn window(&self, id: &WindowId) -> Result<Option<Location>> {
        let mut pending = self.pending.iter().rev();
        if let Some(at) = pending.find_map(|pending| pending.window(id)) {
            return Ok(at.value());
        }
        self.get(WINDOWS, &id.0)?
            .map(|value| Location::decode(&value))
            .transpose()
    }

    /// The record of an object.
    pub fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        self.get(OBJECTS, &id.0)?
            .map(|value| ObjectRecord::decode(id, &value))
            .transpose()
    }

    /// Bytes of an object, however many extents it has.
    pub(crate) fn object_length(&self, id: ObjectId) -> Result<Option<u64>> {
        self.get(OBJECTS, &id.0)?
            .map(|value| ObjectRecord::decode_length(id, &value))
            .transpose()
    }

    /// The record of a segment.
    pub fn segment(&self, id: SegmentId) -> Result<Option<SegmentRecord>> {
        self.get(SEGMENTS, &id.0.to_be_bytes())?
            .map(|value| SegmentRecord::decode(&value))
            .transpose()
    }

    /// The collection epoch: grows by one with every collection.
    pub fn epoch(&self) -> Result<u64> {
        self.counter(EPOCH)
    }

    /// Number of the next segment; past the last one there is when all are used up.
    pub fn next_segment(&self) -> Result<u64> {
        self.counter(NEXT_SEGMENT)
    }

    /// Commits made so far; 0 of a store of an old release, which does not count them.
    pub fn commits(&self) -> Result<u64> {
        self.counter(COMMITS)
    }

    /// Digest of the last commit's frame of the journal; `None` before the first one.
    pub(crate) fn last_frame(&self) -> Result<Option<Digest>> {
        let Some(value) = self.get(META, FRAME)? else {
            return Ok(None);
        };
        let digest = value.as_slice().try_into().map_err(|_| {
            StoreError::Corrupt("the index's note of its journal is not 32 bytes".into())
        })?;
        Ok(Some(digest))
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

    /// Calls `visit` with each record of a kind in order of keys, or with why it cannot be read: one
    /// that cannot keeps none of the others from being visited, unless `visit` ends it.
    pub fn each<T>(
        &self,
        kind: &Records<T>,
        visit: impl FnMut(Result<T>) -> Result<()>,
    ) -> Result<()> {
        self.each_with_prefix(kind, "", visit)
    }

    pub(super) fn each_with_prefix<T>(
        &self,
        kind: &Records<T>,
        prefix: &str,
        mut visit: impl FnMut(Result<T>) -> Result<()>,
    ) -> Result<()> {
        self.scan(kind.family, prefix.as_bytes(), |key, value| {
            visit((kind.read)(key, value).map_err(|error| match error {
                StoreError::Corrupt(what) => {
                    StoreError::Corrupt(format!("{what} (of {})", shown(key)))
                }
                other => other,
            }))
        })
    }

    /// Calls `visit` with every page of the index.
    pub fn for_each_page(
        &self,
        mut visit: impl FnMut(PageId, Location) -> Result<()>,
    ) -> Result<()> {
        self.each(&records::PAGES, |record| {
            let (id, at) = record?;
            visit(id, at)
        })
    }

    /// Calls `visit` with every densely stored window.
    pub fn for_each_window(
        &self,
        mut visit: impl FnMut(WindowId, Location) -> Result<()>,
    ) -> Result<()> {
        self.each(&records::WINDOWS, |record| {
            let (id, at) = record?;
            visit(id, at)
        })
    }

    /// Calls `visit` with every object.
    pub fn for_each_object(
        &self,
        mut visit: impl FnMut(ObjectId, ObjectRecord) -> Result<()>,
    ) -> Result<()> {
        self.each(&records::OBJECTS, |record| {
            let (id, record) = record?;
            visit(id, record)
        })
    }

    /// Calls `visit` with every object whose record can be read. Answers with what keeps others from being read, in words.
    pub(crate) fn for_each_readable_object(
        &self,
        mut visit: impl FnMut(ObjectId, ObjectRecord),
    ) -> Vec<String> {
        let mut unread = Vec::new();
        let scanned = self.each(&records::OBJECTS, |record| {
            match record {
                Ok((id, record)) => visit(id, record),
                Err(error) => unread.push(error.to_string()),
            }
            Ok(())
        });
        unread.extend(scanned.err().map(|error| error.to_string()));
        for error in &unread {
            tracing::warn!(error, "objects are passed over");
        }
        unread
    }

    /// All segments that the index knows.
    pub fn segments(&self) -> Result<Vec<(SegmentId, SegmentRecord)>> {
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
    pub fn segments_one_by_one(&self) -> Result<Vec<(SegmentId, Result<SegmentRecord>)>> {
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
            let first = all.last().map_or(0, |(id, _)| u64::from(id.0) + 1);
            let end = self.next_segment()?.min(1 << 32);
            for id in (first..end).map(|number| SegmentId(number as u32)) {
                if let Some(record) = self.segment(id).transpose() {
                    all.push((id, record));
                }
            }
        }
        Ok(all)
    }
}

/// A key as a person may know it: a name, or a digest.
pub(crate) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(name) if !name.chars().any(char::is_control) => name.to_owned(),
        _ => key.iter().fold(String::new(), |mut digits, byte| {
            // Writing to a string cannot fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        }),
    }
}
