//! Pages on record that nobody wrote, to measure an index of a size that no disk at hand holds.
//!
//! Whatever commits them is what commits others: slots are handed out, a frame goes to the journal, a batch to the
//! index. Only that the slots stay holes of their files, and that nothing has the digests that are told.

use std::cell::Cell;
use std::ops::Range;

use pool_core::ExtentMap;
use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{Extent, Slot};
use pool_core::page::PAGE_SIZE;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord};
use crate::index::Batch;
use crate::segment::{Appender, Room};

/// Digest of the synthetic page `number`.
pub fn page(number: u64) -> PageId {
    PageId::of(&number.to_le_bytes())
}

/// Commits an object of the synthetic pages `numbers`. For a store that is thrown away afterwards: whoever reads the object
/// finds damage.
pub fn add(store: &Store, numbers: Range<u64>) -> Result<ObjectId> {
    let pages = u32::try_from(numbers.end.saturating_sub(numbers.start))
        .map_err(|_| StoreError::BadUpload("too many synthetic pages for an object".into()))?;
    let object = ObjectId::of(&[numbers.start.to_le_bytes(), numbers.end.to_le_bytes()].concat());
    let take = |appender: &mut Appender| appender.reserve_pages(pages);
    store.step_with_slots(&Cell::default(), take, |turn, room| {
        place(&mut turn.batch, object, numbers.clone(), room)
    })?;
    Ok(object)
}

/// Puts the pages on record in slots, and the object that they make up.
fn place(
    batch: &mut Batch<'_>,
    object: ObjectId,
    mut numbers: Range<u64>,
    room: &[Room],
) -> Result<()> {
    let (mut placed, mut extents, mut file_page) = (Vec::new(), Vec::new(), 0);
    for &(at, count) in room {
        for (nth, number) in (0..count).zip(&mut numbers) {
            let slot = Slot(at.slot.0 + nth);
            placed.push((page(number), Location { slot, ..at }));
        }
        extents.push(Extent {
            file_page,
            segment: at.segment,
            slot: at.slot,
            count,
            dense: false,
        });
        file_page += u64::from(count);
    }
    let map = ExtentMap::new(file_page * PAGE_SIZE, extents)
        .map_err(|error| StoreError::Extents(object, error))?;
    // As a commit has them.
    placed.sort_unstable_by_key(|(id, _)| *id);
    for (id, at) in placed {
        batch.add_page(id, at);
    }
    batch.put_object(object, &ObjectRecord { phase: 0, map });
    Ok(())
}

/// Merges the tables of all pages' records, and answers with the bytes of disk that they take.
pub fn compact(store: &Store) -> Result<u64> {
    store.view.index.compact_pages();
    table_bytes(store)
}

/// Bytes of disk that the tables of pages' records take.
pub fn table_bytes(store: &Store) -> Result<u64> {
    store.view.index.page_table_bytes()
}
