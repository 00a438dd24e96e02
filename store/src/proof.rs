//! Whether stored pages are what they should be.
//!
//! A page of an object is found right without a look at the object where the index has it at that place, or the window that it is
//! in. What neither tells is found out from the objects themselves.

use std::ops::ControlFlow;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{ExtentMap, SegmentId, Slot};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use crate::backend::SegmentFile;
use crate::error::Result;
use crate::format::{Location, ObjectRecord, SegmentKind, SegmentRecord};
use crate::placement::name_of_window;
use crate::slots::{Slots, SlotsOfSegments};
use crate::{Reader, Snapshot, StoreView};

/// Pages that are looked up in one go.
const LOOKED_UP: usize = 4096;

/// Fills `content` from byte `offset` of a segment, with zeros where it cannot be read. True when all of it could.
pub(crate) fn read_what_can_be(
    from: &dyn SegmentFile,
    id: SegmentId,
    content: &mut [u8],
    offset: u64,
) -> bool {
    if from.read_exact_at(content, offset).is_ok() {
        return true;
    }
    let mut is_all = true;
    for (page, at) in content
        .chunks_mut(PAGE_SIZE as usize)
        .zip((offset..).step_by(PAGE_SIZE as usize))
    {
        if let Err(error) = from.read_exact_at(page, at) {
            tracing::warn!(%error, segment = %id, slot = at / PAGE_SIZE, "reading a page");
            page.fill(0);
            is_all = false;
        }
    }
    is_all
}

/// Those of `slots` of which neither the place of their page nor their window says that they have what they should: the
/// same page is kept elsewhere, or they are damaged.
pub(crate) fn unproven(
    index: &Reader<'_>,
    segment: SegmentId,
    record: &SegmentRecord,
    pages: &[Option<PageId>],
    slots: &Slots,
) -> Result<Slots> {
    let mut open = Slots::default();
    let all: Vec<u32> = slots.within(0, record.used).collect();
    for part in all.chunks(LOOKED_UP) {
        let listed = part.iter().map(|slot| (*slot, pages[*slot as usize]));
        let (listed, zeros): (Vec<_>, Vec<_>) = listed.partition(|(_, page)| page.is_some());
        for (slot, _) in zeros {
            open.insert(slot);
        }
        let ids: Vec<PageId> = listed.iter().filter_map(|(_, page)| *page).collect();
        for ((slot, _), found) in listed.into_iter().zip(index.pages(&ids)?) {
            let slot = Slot(slot);
            if found != Some(Location { segment, slot }) {
                open.insert(slot.0);
            }
        }
    }
    if record.kind == SegmentKind::Sparse || open.is_empty() {
        return Ok(open);
    }
    let mut left = Slots::default();
    let per_window = PAGES_PER_WINDOW as usize;
    for (window, first) in pages.chunks(per_window).zip((0..).step_by(per_window)) {
        let mut open = open.within(first, window.len() as u32).peekable();
        if open.peek().is_some() {
            let at = Location {
                segment,
                slot: Slot(first),
            };
            if index.window(&name_of_window(window))? != Some(at) {
                open.for_each(|slot| left.insert(slot));
            }
        }
    }
    Ok(left)
}

/// Objects whose records can be read with pages in `doubtful` slots that are not what their digests say. `step` is told of the
/// bytes that were read.
pub(crate) fn damaged_objects(
    snapshot: &Snapshot<'_>,
    doubtful: &SlotsOfSegments,
    step: &mut dyn FnMut(u64),
) -> Vec<ObjectId> {
    let mut damaged = Vec::new();
    if doubtful.is_empty() {
        return damaged;
    }
    let mut go_on = |read| {
        step(read);
        ControlFlow::Continue(())
    };
    // What cannot be read is named by whoever asked for this.
    let _ = snapshot.for_each_readable_object(|id, record| {
        if doubtful.touch(&record)
            && is_whole_while(snapshot.view(), id, &record, &mut go_on)
                != ControlFlow::Continue(true)
        {
            damaged.push(id);
        }
    });
    damaged
}

/// True when an object can be read and is what its digest says, zeros past its end included.
pub(crate) fn is_whole(view: &StoreView, id: ObjectId, record: &ObjectRecord) -> bool {
    let whole = is_whole_while(view, id, record, &mut |_| ControlFlow::Continue(()));
    whole == ControlFlow::Continue(true)
}

/// The same; `step` is told of the bytes that were read every 2 MiB at most, and may end it.
pub(crate) fn is_whole_while(
    view: &StoreView,
    id: ObjectId,
    record: &ObjectRecord,
    step: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> ControlFlow<(), bool> {
    let mut flow = ControlFlow::Continue(());
    let found = view.digest_while(&record.map, &mut |read| {
        flow = step(read);
        flow
    });
    flow?;
    let is_right = matches!(found, Ok(Some(found)) if found == id);
    ControlFlow::Continue(is_right && view.ends_in_zeros(record).unwrap_or(false))
}

impl StoreView {
    /// The digest of an object as it can be read.
    pub fn digest_of(&self, map: &ExtentMap) -> Result<ObjectId> {
        let whole = self.digest_while(map, &mut |_| ControlFlow::Continue(()))?;
        Ok(whole.expect("nothing ends it"))
    }

    /// The same; `step` is told of the bytes that were read every 2 MiB at most. `None` when it ended that.
    fn digest_while(
        &self,
        map: &ExtentMap,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<ObjectId>> {
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        while offset < map.length {
            let part = self.read(map, offset, WINDOW_SIZE as usize)?;
            offset += part.len() as u64;
            hasher.update(&part);
            if step(part.len() as u64).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(ObjectId::from(hasher.finalize())))
    }

    /// True when the last page has nothing but zeros past the object's end: whoever maps it sees that.
    pub fn ends_in_zeros(&self, record: &ObjectRecord) -> Result<bool> {
        let end = record.map.length;
        let mut whole = record.map.clone();
        whole.length = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(end);
        let past_end = self.read(&whole, end, PAGE_SIZE as usize)?;
        Ok(page::is_zero(&past_end))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;

    use super::*;

    /// A segment of ones whose second page cannot be read.
    #[derive(Debug)]
    struct Half;

    impl SegmentFile for Half {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let end = offset + buffer.len() as u64;
            if offset < 2 * PAGE_SIZE && PAGE_SIZE < end {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            buffer.fill(1);
            Ok(())
        }
        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            unreachable!("it is read alone")
        }
        fn discard(&self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("it is read alone")
        }
        fn sync(&self) -> io::Result<()> {
            unreachable!("it is read alone")
        }
        fn file(&self) -> Option<&File> {
            None
        }
    }

    #[test]
    fn what_cannot_be_read_is_zeros_and_is_told() {
        let mut content = vec![7; 4 * PAGE_SIZE as usize];
        assert!(!read_what_can_be(&Half, SegmentId(0), &mut content, 0));
        let pages: Vec<_> = content.chunks(PAGE_SIZE as usize).collect();
        assert!(page::is_zero(pages[1]));
        for read in [0, 2, 3] {
            assert!(pages[read].iter().all(|byte| *byte == 1), "{read}");
        }
        assert!(read_what_can_be(
            &Half,
            SegmentId(0),
            &mut content,
            2 * PAGE_SIZE
        ));
    }
}
