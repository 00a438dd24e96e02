//! New pages of one commit, written before it is decided.
//!
//! Slots are handed out under the writer's lock, in a moment, and filled without it. Nothing refers to them until the
//! commit has joined a group, so whatever comes between costs slots and no more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pool_core::digest::{PageId, WindowId};
use pool_core::extent::Slot;
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};

use crate::error::Result;
use crate::format::Location;
use crate::group::{Failed, Place};
use crate::room::Promise;
use crate::segment::Taken;
use crate::target::{Target, Unsynced, Written};
use crate::{Store, Writer};

#[cfg(test)]
mod tests;

/// Bytes from which on a commit waits for the disk by itself, and keeps no others of its group waiting for it.
const MUCH: u64 = 1 << 20;

/// Who hands slots out.
pub(crate) enum Hand<'w> {
    /// Whoever has the writer's lock, which is taken for a moment.
    Free,
    /// The caller, who has it.
    Held(&'w mut Writer),
}

/// What one commit has written.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    store: &'a Store,
    pages: HashMap<PageId, Location>,
    windows: HashMap<WindowId, Location>,
    runs: Vec<Taken>,
    written: Vec<(Arc<Target>, Written)>,
    /// Bytes that were not waited for.
    unsynced: u64,
    /// Where it was to become a part of the store, the last time.
    place: Option<Place>,
}

impl<'a> Prepared<'a> {
    /// Begins with nothing.
    pub(crate) fn new(store: &'a Store) -> Result<Self> {
        store.joining().appender.hold()?;
        Ok(Self {
            store,
            pages: HashMap::new(),
            windows: HashMap::new(),
            runs: Vec::new(),
            written: Vec::new(),
            unsynced: 0,
            place: None,
        })
    }

    pub(crate) fn page(&self, id: &PageId) -> Option<Location> {
        self.pages.get(id).copied()
    }

    pub(crate) fn window(&self, id: &WindowId) -> Option<Location> {
        self.windows.get(id).copied()
    }

    /// Is handed slots, and the disk for `bytes` that are to be written to them.
    fn take(
        &mut self,
        hand: &mut Hand<'_>,
        bytes: usize,
        take: impl FnOnce(&mut Writer, &mut Vec<Taken>) -> Result<()>,
    ) -> Result<(Vec<Taken>, Promise)> {
        let before = self.runs.len();
        let runs = &mut self.runs;
        let take = |writer: &mut Writer| {
            let promise = writer.appender.promise(bytes as u64)?;
            take(writer, runs)?;
            Ok(promise)
        };
        let promise = match hand {
            Hand::Free => take(&mut self.store.joining()),
            Hand::Held(writer) => take(writer),
        }?;
        Ok((self.runs[before..].to_vec(), promise))
    }

    /// Writes a window of exactly 2 MiB, which is in these places, and says where it goes.
    pub(crate) fn write_window(
        &mut self,
        hand: &mut Hand<'_>,
        id: WindowId,
        content: &[&[u8]],
    ) -> Result<Location> {
        debug_assert_eq!(length(content) as u64, PAGES_PER_WINDOW * PAGE_SIZE);
        let (taken, _promise) = self.take(hand, length(content), |writer, runs| {
            runs.push(writer.appender.take_window()?);
            Ok(())
        })?;
        let mut first = None;
        for (target, (at, _)) in taken {
            self.fill(target, at.slot, content)?;
            first = Some(at);
        }
        let at = first.expect("one window is handed out");
        self.windows.insert(id, at);
        Ok(at)
    }

    /// Writes pages one after the other, which are in these places.
    pub(crate) fn write_pages(
        &mut self,
        hand: &mut Hand<'_>,
        ids: &[PageId],
        content: &[&[u8]],
    ) -> Result<()> {
        debug_assert_eq!(length(content) as u64, ids.len() as u64 * PAGE_SIZE);
        if ids.is_empty() {
            return Ok(());
        }
        let (taken, _promise) = self.take(hand, length(content), |writer, runs| {
            writer.appender.take_pages(ids.len() as u32, runs)
        })?;
        let (mut ids, mut content) = (ids, content.to_vec());
        for (target, (at, count)) in taken {
            let (run, others) = ids.split_at(count as usize);
            let (pages, rest) = split(&content, count as usize * PAGE_SIZE as usize);
            (ids, content) = (others, rest);
            self.fill(target, at.slot, &pages)?;
            for (nth, id) in run.iter().enumerate() {
                let slot = Slot(at.slot.0 + nth as u32);
                self.pages.insert(*id, Location { slot, ..at });
            }
        }
        Ok(())
    }

    fn fill(&mut self, target: Arc<Target>, first: Slot, content: &[&[u8]]) -> Result<()> {
        let written = target.write(first, content)?;
        let bytes = length(content) as u64;
        self.unsynced += bytes;
        if self.unsynced >= MUCH {
            // The disk works while the next ones are looked for.
            target.begin_sync(first, bytes);
        }
        let mut known = self.written.iter_mut();
        match known.find(|(known, _)| Arc::ptr_eq(known, &target)) {
            Some((_, known)) => *known = written,
            None => self.written.push((target, written)),
        }
        Ok(())
    }

    /// Waits for the disk if there is much to wait for: what others are committing is not to wait for that.
    pub(crate) fn sync_much(&mut self) -> std::result::Result<(), Failed> {
        if self.unsynced >= MUCH {
            for (target, written) in &self.written {
                target.sync(*written).map_err(|unsynced| match unsynced {
                    Unsynced::Now(error) => Failed::Itself(error),
                    Unsynced::Before => Failed::Other,
                })?;
            }
            self.unsynced = 0;
        }
        Ok(())
    }

    /// What a group has to sync.
    pub(crate) fn written(&self) -> Vec<(Arc<Target>, Written)> {
        self.written.clone()
    }

    /// True when what was written may be lost.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.written.iter().any(|(target, _)| target.is_spoilt())
    }

    /// True when slots were handed out to it.
    pub(crate) fn has_any(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Notes where it is to become a part of the store.
    pub(crate) fn joined(&mut self, place: &Place) {
        self.place = Some(place.clone());
    }

    /// Its group is durable. Where others have stored meanwhile what this has written, slots of it are not `used`:
    /// gives the disk of runs back that have none.
    pub(crate) fn keep(self, used: Option<&HashSet<Location>>) {
        debug_assert!(self.place.as_ref().is_some_and(Place::is_done));
        if let Some(used) = used {
            let is_unused =
                |(_, (at, count)): &&Taken| !(0..*count).any(|nth| used.contains(&at.plus(nth)));
            discard(self.runs.iter().filter(is_unused));
        }
    }
}

/// Bytes in all places.
fn length(places: &[&[u8]]) -> usize {
    places.iter().map(|place| place.len()).sum()
}

/// Where the first bytes are, as many as `at`, and where those behind them.
fn split<'a>(places: &[&'a [u8]], at: usize) -> (Vec<&'a [u8]>, Vec<&'a [u8]>) {
    let (mut first, mut others, mut left) = (Vec::new(), Vec::new(), at);
    for place in places {
        let (before, behind) = place.split_at(left.min(place.len()));
        left -= before.len();
        first.extend(Some(before).filter(|bytes| !bytes.is_empty()));
        others.extend(Some(behind).filter(|bytes| !bytes.is_empty()));
    }
    (first, others)
}

/// Gives the disk under runs of slots back, which nothing refers to. Not in a segment that nobody is to write to any more: the index
/// may have been wrong about them.
fn discard<'a>(runs: impl Iterator<Item = &'a Taken>) {
    for (target, (at, count)) in runs.filter(|(target, _)| !target.is_spoilt()) {
        let bytes = u64::from(*count) * PAGE_SIZE;
        if let Err(error) = target.file().discard(at.slot.byte_offset(), bytes) {
            tracing::warn!(segment = %at.segment, %error, "giving disk back failed");
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if self.place.as_ref().is_some_and(Place::is_open) {
            // Whoever was to wait for it has panicked, and it may become a part of the store yet. So its slots are nobody
            // else's before the store is opened again.
            return;
        }
        // What is durable is kept, whatever its author is told.
        let is_kept = self.place.as_ref().is_some_and(Place::is_done);
        let mut writer = self.store.joining();
        // A batch whose write failed may turn out to be durable, and must then find its pages.
        let is_in_doubt = self.place.is_some() && writer.appender.is_in_doubt();
        let is_looked_at = writer.appender.look_at_trust();
        if let Err(error) = &is_looked_at {
            tracing::error!(%error, "what a failed commit wrote stays");
        }
        if is_looked_at.is_ok() && !is_kept && !is_in_doubt && writer.appender.holders() > 1 {
            drop(writer);
            // While they are still this one's: nobody else writes there.
            discard(self.runs.iter());
            writer = self.store.joining();
        }
        writer.appender.release(&self.runs);
        if !is_kept
            && writer.appender.holders() == 0
            && let Err(error) = writer.appender.rollback()
        {
            tracing::error!(%error, "forgetting what a failed commit wrote");
        }
    }
}
