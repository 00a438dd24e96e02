//! Which segments may be appended to: all while the index is trusted, and none without its file.

use std::sync::Arc;

use super::Appender;
use crate::error::{Result, StoreError};
use crate::format::{SegmentKind, SegmentState};
use crate::target::Target;

impl Appender {
    /// Keeps off all segments that were there before, as soon as the index is not trusted, and goes on as ever when it is. To be called
    /// before anything is handed out, put on record or given back.
    ///
    /// # Errors
    ///
    /// When there is no telling which numbers of segments nobody has had, or what was left open.
    pub(crate) fn look_at_trust(&mut self) -> Result<()> {
        match (self.begun_from, self.distrust.holds()) {
            (None, true) => self.keep_off(),
            (Some(_), false) => self.go_on(),
            (None, false) | (Some(_), true) => Ok(()),
        }
    }

    fn keep_off(&mut self) -> Result<()> {
        let index = &self.index;
        let next = self
            .distrust
            .next_segment(&index.now(), self.backend.as_ref())?;
        tracing::warn!(next, "the index is not trusted: segments are begun anew");
        // Commits under way that were handed slots there are told to write elsewhere.
        let open = [self.dense.take(), self.sparse.take()];
        let open = open.into_iter().flatten().chain(self.sealed.drain(..));
        open.for_each(|segment| segment.target.spoil());
        self.spare.clear();
        self.left.clear();
        (self.next, self.begun_from) = (next, Some(next));
        self.groups.drain(index);
        Ok(())
    }

    fn go_on(&mut self) -> Result<()> {
        let now = self.index.now();
        let next = now.next_segment()?;
        let open = [&self.dense, &self.sparse].into_iter().flatten();
        let mine: Vec<_> = open
            .chain(&self.sealed)
            .map(|own| own.target.id())
            .collect();
        for (id, record) in now.segments()? {
            if record.state == SegmentState::Open && !mine.contains(&id) {
                match record.used {
                    // Who was handed slots of it may be writing still.
                    0 if self.is_held(id) || self.spare.contains(&id) => {}
                    0 => self.spare.push(id),
                    _ => self.left.push(id),
                }
            }
        }
        self.next = self.next.max(next);
        self.begun_from = None;
        Ok(())
    }

    /// Puts on record that nothing more is appended to what was left open.
    pub(super) fn seal_left(&mut self) -> Result<()> {
        if self.left.is_empty() {
            return Ok(());
        }
        let mut batch = self.index.batch();
        for id in &self.left {
            // A collection may have retired it meanwhile.
            if let Some(mut record) = self.index.now().segment(*id)?
                && record.state == SegmentState::Open
            {
                record.state = SegmentState::Sealed;
                batch.put_segment(*id, &record);
            }
        }
        batch.commit()?;
        self.left.clear();
        Ok(())
    }

    /// Looks whether the open segment of a kind has its file still: somebody may have removed it, or put a copy
    /// in its place, and whatever is appended to one that has no name is lost once it is closed. A segment without a
    /// file gets no more.
    pub(super) fn look_again(&mut self, kind: SegmentKind) -> Result<()> {
        let Some(open) = self.open_segment(kind) else {
            return Ok(());
        };
        let (target, mut record) = (Arc::clone(&open.target), open.record);
        let id = target.id();
        let is_named = self.backend.is_named(id, target.file());
        if is_named && !target.is_spoilt() {
            return Ok(());
        }
        match self.backend.open(id, true) {
            Ok(file) => {
                if !is_named {
                    target.spoil();
                }
                if let Some(open) = self.open_segment(kind) {
                    open.target = Arc::new(Target::new(id, file, target.recorded()));
                }
                return Ok(());
            }
            Err(StoreError::NoSegment(_)) => {}
            Err(error) => return Err(error),
        }
        tracing::error!(segment = %id, "it has no file any more (pool scrub names objects)");
        target.spoil();
        // Those that are under way would put it on record as open again.
        self.groups.drain(&self.index);
        record.state = SegmentState::Sealed;
        let mut batch = self.index.batch();
        batch.put_segment(id, &record);
        batch.commit()?;
        *self.open_segment(kind) = None;
        Ok(())
    }
}
