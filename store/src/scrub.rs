//! Reading all that is stored, in the order in which it lies, to find what is damaged before somebody needs it.
//!
//! Only one segment at a time is held against collection, so a scrub may take as long as it likes.

use pool_core::digest::ObjectId;
use pool_core::page::WINDOW_SIZE;
use serde::Serialize;

use crate::StoreView;
use crate::error::{Result, StoreError};
use crate::progress::Progress;
use crate::proof::{damaged_objects, read_what_can_be, unproven};
use crate::slots::{Slots, SlotsOfSegments, bytes_of};
use crate::upload::page_ids;

/// What a scrub read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Segments read.
    pub segments: u64,
    /// Pages in them that objects consist of.
    pub pages: u64,
    /// Of these, pages for which their objects had to be asked: neither the page's place nor its window tells.
    pub doubtful_pages: u64,
    /// Objects that are not what their digests say.
    pub damaged_objects: Vec<ObjectId>,
}

/// Reads every page that an object consists of and compares it with its digest, its window's or its object's. Others may write to
/// the store and collect meanwhile; what comes in since is for the next time. `progress` is called every 2 MiB at most,
/// and may take its time.
pub fn scrub(view: &StoreView, progress: &mut dyn FnMut(Progress)) -> Result<ScrubReport> {
    view.refresh()?;
    let (segments, used) = SlotsOfSegments::of_objects(&view.snapshot())?;
    let mut state = Progress::begin(segments.values().map(bytes_of).sum());
    let mut report = ScrubReport::default();
    let mut doubtful = SlotsOfSegments::default();
    let mut content = vec![0; WINDOW_SIZE as usize];
    for (id, record) in &segments {
        let held = match view.hold_segment(*id) {
            Ok(held) => held,
            // Collected since, or its file is lost: the objects that are there in the end will tell.
            Err(StoreError::NoSegment(_)) => {
                doubtful.insert(*id, used.of(*id).cloned().unwrap_or_default());
                progress(state.step(bytes_of(record), 0));
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut pages = Vec::with_capacity(record.used as usize);
        for offset in (0..bytes_of(record)).step_by(WINDOW_SIZE as usize) {
            let length = (bytes_of(record) - offset).min(WINDOW_SIZE);
            let content = &mut content[..length as usize];
            read_what_can_be(held.value.as_ref(), *id, content, offset);
            pages.extend(page_ids(content));
            progress(state.step(length, length));
        }
        let nothing = Slots::default();
        let slots = used.of(*id).unwrap_or(&nothing);
        let open = unproven(&view.index.now(), *id, record, &pages, slots)?;
        report.segments += 1;
        report.pages += slots.len();
        report.doubtful_pages += open.len();
        doubtful.insert(*id, open);
    }
    // Asked last, and in a state of its own: what has gone or moved since is nobody's.
    let held = view.hold_all()?;
    report.damaged_objects = damaged_objects(&held.value, &doubtful)?;
    Ok(report)
}
