//! Reading all that is stored, in the order in which it lies, to find what is damaged before somebody needs it.
//!
//! Only one segment at a time is held against collection, so a scrub may take as long as it likes. A [`Pass`] can end
//! after any segment, and another one go on behind it ([`State`] says where), so that a store that takes days to read is
//! read to its end all the same.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use pool_core::digest::ObjectId;
use pool_core::extent::SegmentId;
use pool_core::page::WINDOW_SIZE;
use serde::{Deserialize, Serialize};

use crate::audit::{DamagedFile, Part, audit};
use crate::error::{Result, StoreError};
use crate::format::{NEW_SCRUB_FILE, SCRUB_FILE, SegmentRecord};
use crate::manifest::Timestamp;
use crate::progress::Progress;
use crate::proof::{damaged_objects, is_whole_while, read_what_can_be, unproven};
use crate::slots::{Segments, Slots, SlotsOfSegments, bytes_of};
use crate::small_file;
use crate::upload::page_ids;
use crate::{Snapshot, StoreView};

/// Records of the index that are told of one by one.
const MOST_UNREAD: usize = 16;

/// What a scrub read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Segments read.
    pub segments: u64,
    /// Pages in them that objects consist of.
    pub pages: u64,
    /// Of these, pages for which their objects had to be asked: neither the page's place nor its window tells.
    pub doubtful_pages: u64,
    /// Objects that are not what their digests say.
    pub damaged_objects: Vec<ObjectId>,
    /// Files of superblock, mark, index and journal that are not what they should be.
    #[serde(default)]
    pub damaged_files: Vec<DamagedFile>,
}

impl ScrubReport {
    /// True when nothing was found.
    pub fn is_clean(&self) -> bool {
        self.damaged_objects.is_empty() && self.damaged_files.is_empty()
    }

    /// Adds what a pass cannot read of the index, unless that was found damaged anyway.
    pub fn add_unread(&mut self, pass: &Pass<'_>) {
        let mut files = self.damaged_files.iter();
        if files.all(|file| file.part != Part::Index) {
            let unread = pass.unread.iter().take(MOST_UNREAD);
            self.damaged_files
                .extend(unread.map(|what| DamagedFile::of_record(what, pass.view)));
        }
    }
}

/// Reads what says what the store has ([`audit`](crate::audit)), then every page that an object consists of, and compares it with
/// its digest, its window's or its object's. Others may write to the store and collect meanwhile; what comes in since is for the next
/// time. `progress` is called every 2 MiB at most, and may take its time; it is told of the bytes of segments.
pub fn scrub(view: &StoreView, progress: &mut dyn FnMut(Progress)) -> Result<ScrubReport> {
    let mut report = ScrubReport::default();
    let mut doubtful = SlotsOfSegments::default();
    let mut pass = Pass::begin(view, None)?;
    let audited = audit(view, &mut |_| {
        progress(pass.beside(0));
        ControlFlow::Continue(())
    })?;
    if let ControlFlow::Continue(found) = audited {
        report.damaged_files = found.damaged;
    }
    report.add_unread(&pass);
    while let Some(read) = pass.next(&mut |step| {
        progress(step);
        ControlFlow::Continue(())
    })? {
        report.segments += u64::from(!read.is_missing);
        report.pages += read.pages;
        report.doubtful_pages += read.doubtful_pages();
        doubtful.insert(read.segment, read.doubtful);
    }
    // Asked last, and in a state of its own: what has gone or moved since is nobody's.
    let held = view.hold_all()?;
    let mut step = |read| progress(pass.beside(read));
    report.damaged_objects = damaged_objects(&held.value, &doubtful, &mut step);
    Ok(report)
}

/// A way through the segments of a store.
#[derive(Debug)]
pub struct Pass<'a> {
    view: &'a StoreView,
    left: std::vec::IntoIter<(SegmentId, SegmentRecord)>,
    used: SlotsOfSegments,
    /// What of the index cannot be read, in words: it keeps nothing else from being read.
    unread: Vec<String>,
    state: Progress,
    content: Vec<u8>,
}

/// What was found in a segment.
#[derive(Debug)]
pub struct SegmentRead {
    /// The segment.
    pub segment: SegmentId,
    /// Pages in it that objects consist of.
    pub pages: u64,
    /// It was collected since the pass began, or its file is lost.
    is_missing: bool,
    /// Slots of which the index does not say that they have what they should.
    doubtful: Slots,
}

impl SegmentRead {
    /// Pages for which their objects have to be asked.
    pub fn doubtful_pages(&self) -> u64 {
        if self.is_missing {
            0
        } else {
            self.doubtful.len()
        }
    }
}

/// Segments of a pass in the order in which they are read, behind `after` if that is given, and the bytes of those that
/// are not read again.
fn behind(segments: Segments, after: Option<SegmentId>) -> (Vec<(SegmentId, SegmentRecord)>, u64) {
    let is_done = |id: SegmentId| after.is_some_and(|after| id <= after);
    let (done, left): (Vec<_>, Vec<_>) = segments.into_iter().partition(|(id, _)| is_done(*id));
    (left, done.iter().map(|(_, record)| bytes_of(record)).sum())
}

impl<'a> Pass<'a> {
    /// Begins a pass of what the store has now, behind the segment `after`, up to which another one came.
    pub fn begin(view: &'a StoreView, after: Option<SegmentId>) -> Result<Self> {
        view.refresh()?;
        let (segments, used, unread) = SlotsOfSegments::of_readable(&view.snapshot());
        for error in &unread {
            tracing::error!(error, "scrubbing without");
        }
        let mut state = Progress::begin(segments.values().map(bytes_of).sum());
        let (left, done) = behind(segments, after);
        state.step(done, 0);
        Ok(Self {
            view,
            left: left.into_iter(),
            used,
            unread,
            state,
            content: vec![0; WINDOW_SIZE as usize],
        })
    }

    /// True when something of the index cannot be read, so that objects may be passed over.
    pub fn passes_over(&self) -> bool {
        !self.unread.is_empty()
    }

    /// The pass has come no further, and `read` bytes were read beside it.
    pub fn beside(&self, read: u64) -> Progress {
        Progress { read, ..self.state }
    }

    /// Reads the next segment, which is held for as long. `step` is called every 2 MiB at most, may take its time, and
    /// may end the pass. `None` at the end.
    pub fn next(
        &mut self,
        step: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<SegmentRead>> {
        let Some((id, record)) = self.left.next() else {
            return Ok(None);
        };
        let slots = self.used.of(id).cloned().unwrap_or_default();
        let mut read = SegmentRead {
            segment: id,
            pages: slots.len(),
            is_missing: false,
            doubtful: Slots::default(),
        };
        let held = match self.view.hold_segment(id) {
            Ok(held) => held,
            // Collected since, or its file is lost: the objects that are there in the end will tell.
            Err(StoreError::NoSegment(_)) => {
                let is_stopped = step(self.state.step(bytes_of(&record), 0)).is_break();
                read.is_missing = true;
                read.pages = 0;
                read.doubtful = slots;
                return Ok((!is_stopped).then_some(read));
            }
            Err(error) => return Err(error),
        };
        let mut pages = Vec::with_capacity(record.used as usize);
        for offset in (0..bytes_of(&record)).step_by(WINDOW_SIZE as usize) {
            let length = (bytes_of(&record) - offset).min(WINDOW_SIZE);
            let content = &mut self.content[..length as usize];
            read_what_can_be(held.value.as_ref(), id, content, offset);
            pages.extend(page_ids(content));
            if step(self.state.step(length, length)).is_break() {
                return Ok(None);
            }
        }
        let proven = unproven(&self.view.index.now(), id, &record, &pages, &slots);
        read.doubtful = proven.unwrap_or_else(|error| {
            tracing::error!(%error, segment = %id, "asking the objects of a segment");
            slots
        });
        Ok(Some(read))
    }

    /// Objects that consist of what is doubtful in a segment and are not what their digests say. `step` is called as by
    /// [`Pass::next`]; `None` when it ended the pass.
    pub fn damaged_by(
        &mut self,
        read: SegmentRead,
        step: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<Vec<ObjectId>>> {
        let mut damaged = Vec::new();
        if read.doubtful.is_empty() {
            return Ok(Some(damaged));
        }
        let mut doubtful = SlotsOfSegments::default();
        doubtful.insert(read.segment, read.doubtful);
        let mut touching = Vec::new();
        self.view.refresh()?;
        let unread = self.view.snapshot().for_each_readable_object(|id, record| {
            if doubtful.touch(&record) {
                touching.push(id);
            }
        });
        if self.unread.is_empty() {
            self.unread = unread;
        }
        for id in touching {
            let look = |snapshot: &Snapshot<'_>| {
                let record = snapshot.object(id)?;
                Ok(record.map(|record| (record, vec![id])))
            };
            if let Some(held) = self.view.hold(look)? {
                let mut told = |read| step(self.beside(read));
                match is_whole_while(self.view, id, &held.value, &mut told) {
                    ControlFlow::Continue(true) => {}
                    ControlFlow::Continue(false) => damaged.push(id),
                    ControlFlow::Break(()) => return Ok(None),
                }
            }
        }
        Ok(Some(damaged))
    }
}

/// How far the passes of a store have come, in the file `scrub` of its directory: whoever begins anew goes on there.
/// It is worth no more than the reading, so it is not synced, and one that cannot be read is taken for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When somebody who scrubs came by first.
    pub since: Timestamp,
    /// When the last pass came to its end.
    #[serde(default)]
    pub completed_at: Option<Timestamp>,
    /// What that one found.
    #[serde(default)]
    pub last: Option<ScrubReport>,
    /// The pass under way.
    #[serde(default)]
    pub pass: Option<PassState>,
}

/// How far a pass has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassState {
    /// When it began.
    pub begun_at: Timestamp,
    /// The last segment that it has read.
    #[serde(default)]
    pub after: Option<SegmentId>,
    /// What it has found so far.
    #[serde(default)]
    pub found: ScrubReport,
}

impl State {
    /// The state in the directory of a store, or that of one that nobody has scrubbed.
    pub fn read(directory: &Path, now: Timestamp) -> Self {
        let path = directory.join(SCRUB_FILE);
        let state = match small_file::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(io::Error::from),
            Err(error) => Err(error),
        };
        state.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "beginning a new pass");
            }
            Self {
                since: now,
                ..Self::default()
            }
        })
    }

    /// True when nobody has scrubbed, or meant to.
    pub fn is_new(&self) -> bool {
        *self
            == Self {
                since: self.since,
                ..Self::default()
            }
    }

    /// Puts it there, whole or not at all.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let (new, path) = (directory.join(NEW_SCRUB_FILE), directory.join(SCRUB_FILE));
        let json = serde_json::to_vec(self).expect("it has only string keys");
        small_file::replace(&path, &new, &json)
    }

    /// How long a pass is to wait for: one that was interrupted goes on at once, the next one comes an interval after
    /// the last one's end, and the first an interval after somebody came by. A clock that was set back makes nobody wait
    /// for longer than two of them: what lies farther ahead is no time to go by.
    pub fn due_in(&self, interval: Duration, now: Timestamp) -> Duration {
        if self.pass.is_some() {
            return Duration::ZERO;
        }
        let last = self.completed_at.unwrap_or(self.since);
        if last.saturating_sub(now) > interval.as_secs() {
            return Duration::ZERO;
        }
        let passed = Duration::from_secs(now.saturating_sub(last));
        interval.saturating_sub(passed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::format::{SegmentKind, SegmentState};

    #[test]
    fn a_pass_goes_on_behind_the_last_segment_that_was_read() {
        let record = |used| SegmentRecord {
            kind: SegmentKind::Sparse,
            state: SegmentState::Sealed,
            used,
            capacity: 512,
        };
        let segments = || Segments::from([1, 4, 9].map(|id| (SegmentId(id), record(id))));
        let ids = |after| {
            let (left, done) = behind(segments(), after);
            let left: Vec<_> = left.into_iter().map(|(id, _)| id.0).collect();
            (left, done / 4096)
        };
        assert_eq!(ids(None), (vec![1, 4, 9], 0));
        assert_eq!(ids(Some(SegmentId(1))), (vec![4, 9], 1));
        // It may have been collected since.
        assert_eq!(ids(Some(SegmentId(5))), (vec![9], 5));
        assert_eq!(ids(Some(SegmentId(9))), (vec![], 14));
    }

    #[test]
    fn passes_are_an_interval_apart_and_an_interrupted_one_goes_on() {
        let day = Duration::from_secs(86_400);
        let mut state = State {
            since: 1_000_000,
            ..State::default()
        };
        assert_eq!(state.due_in(day, 1_000_000), day);
        assert_eq!(state.due_in(day, 1_086_399).as_secs(), 1);
        assert_eq!(state.due_in(day, 2_000_000), Duration::ZERO);
        state.completed_at = Some(2_000_000);
        assert_eq!(state.due_in(day, 2_000_100).as_secs(), 86_300);
        // The clock was set back by a little, or was wrong altogether.
        assert_eq!(state.due_in(day, 2_000_000 - 86_400), day);
        assert_eq!(state.due_in(day, 2_000_000 - 86_401), Duration::ZERO);
        state.pass = Some(PassState::default());
        assert_eq!(state.due_in(day, 5), Duration::ZERO);
    }

    #[test]
    fn a_state_is_read_back_and_a_spoilt_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let new = State::read(directory.path(), 77);
        assert_eq!((new.since, &new.pass), (77, &None));
        let state = State {
            since: 5,
            completed_at: Some(6),
            last: Some(ScrubReport::default()),
            pass: Some(PassState {
                begun_at: 7,
                after: Some(SegmentId(8)),
                found: ScrubReport::default(),
            }),
        };
        state.write(directory.path()).unwrap();
        assert_eq!(State::read(directory.path(), 77), state);
        fs::write(directory.path().join(SCRUB_FILE), b"{\"since\": 5, ").unwrap();
        assert_eq!(State::read(directory.path(), 77), new);
    }
}
