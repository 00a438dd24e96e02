//! Sets of slots: which of them objects refer to, say.

use std::collections::BTreeMap;

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};

use crate::Reader;
use crate::error::{Result, StoreError};
use crate::format::{ObjectRecord, SegmentRecord, SegmentState};
use crate::index::records;

/// Segments in order of their numbers.
pub(crate) type Segments = BTreeMap<SegmentId, SegmentRecord>;

/// Bytes of a segment's used slots.
pub(crate) fn bytes_of(record: &SegmentRecord) -> u64 {
    u64::from(record.used) * PAGE_SIZE
}

/// The parts of an extent, each in one window of the segment.
pub(crate) fn by_window(extent: &Extent) -> impl Iterator<Item = Extent> + use<> {
    let mut left = *extent;
    std::iter::from_fn(move || {
        let to_boundary = PAGES_PER_WINDOW as u32 - left.slot.page_in_window() as u32;
        let run = Extent {
            count: left.count.min(to_boundary),
            ..left
        };
        left.file_page += u64::from(run.count);
        left.slot.0 += run.count;
        left.count -= run.count;
        (run.count > 0).then_some(run)
    })
}

/// A set of slots of one segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    words: Vec<u64>,
}

impl Slots {
    pub(crate) fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot % 64);
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        let word = self.words.get(slot as usize / 64);
        word.is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(crate) fn len(&self) -> u64 {
        let ones = self.words.iter().map(|word| u64::from(word.count_ones()));
        ones.sum()
    }

    /// Slots from `first` on, `count` of them, that are in the set.
    pub(crate) fn within(&self, first: u32, count: u32) -> impl Iterator<Item = u32> + '_ {
        (first..first + count).filter(|slot| self.contains(*slot))
    }
}

/// Sets of slots by segment.
#[derive(Debug, Default)]
pub(crate) struct SlotsOfSegments(BTreeMap<SegmentId, Slots>);

impl SlotsOfSegments {
    /// All slots that objects refer to, and the segments that they are of.
    pub(crate) fn of_objects(index: &Reader<'_>) -> Result<(Segments, Self)> {
        let mut segments: Segments = index.segments()?.into_iter().collect();
        let mut slots = Self::default();
        index.for_each_object(|id, record| slots.add(id, &record, &segments))?;
        segments.retain(|id, _| slots.of(*id).is_some());
        Ok((segments, slots))
    }

    /// The same as far as it can be read, and what cannot be, in words.
    pub(crate) fn of_readable(index: &Reader<'_>) -> (Segments, Self, Vec<String>) {
        let mut unread = Vec::new();
        let mut segments = Segments::new();
        match index.segments_one_by_one() {
            Ok(listed) => {
                for (id, record) in listed {
                    match record {
                        Ok(record) => drop(segments.insert(id, record)),
                        Err(error) => unread.push(format!("the record of segment {id}: {error}")),
                    }
                }
            }
            Err(error) => unread.push(error.to_string()),
        }
        let mut slots = Self::default();
        let scanned = index.each(&records::OBJECTS, |record| {
            let added = record.and_then(|(id, record)| slots.add(id, &record, &segments));
            unread.extend(added.err().map(|error| error.to_string()));
            Ok(())
        });
        unread.extend(scanned.err().map(|error| error.to_string()));
        segments.retain(|id, _| slots.of(*id).is_some());
        (segments, slots, unread)
    }

    /// Adds everything that an object consists of, all of which must lie in `segments`.
    pub(crate) fn add(
        &mut self,
        id: ObjectId,
        record: &ObjectRecord,
        segments: &Segments,
    ) -> Result<()> {
        for extent in record.map.extents() {
            let end = u64::from(extent.slot.0) + u64::from(extent.count);
            let is_inside = segments.get(&extent.segment).is_some_and(|segment| {
                segment.state != SegmentState::Retired && end <= u64::from(segment.used)
            });
            if !is_inside {
                return Err(StoreError::Corrupt(format!(
                    "{} pages of object {id} are at slot {} of segment {}, which has not so many",
                    extent.count, extent.slot.0, extent.segment
                )));
            }
            let slots = self.0.entry(extent.segment).or_default();
            (extent.slot.0..end as u32).for_each(|slot| slots.insert(slot));
        }
        Ok(())
    }

    /// Adds the slots of a segment that has none yet.
    pub(crate) fn insert(&mut self, segment: SegmentId, slots: Slots) {
        if !slots.is_empty() {
            self.0.insert(segment, slots);
        }
    }

    pub(crate) fn of(&self, segment: SegmentId) -> Option<&Slots> {
        self.0.get(&segment)
    }

    /// Every slot, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SegmentId, Slot)> + '_ {
        self.0.iter().flat_map(|(segment, slots)| {
            let bits = 0..slots.words.len() as u32 * u64::BITS;
            let set = bits.filter(|slot| slots.contains(*slot));
            set.map(|slot| (*segment, Slot(slot)))
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when a page of the object is in one of the slots.
    pub(crate) fn touch(&self, record: &ObjectRecord) -> bool {
        let touches = |extent: &Extent| {
            self.of(extent.segment)
                .is_some_and(|slots| slots.within(extent.slot.0, extent.count).next().is_some())
        };
        record.map.extents().iter().any(touches)
    }
}

#[cfg(test)]
mod tests {
    use pool_core::extent::ExtentMap;

    use super::*;
    use crate::format::SegmentKind;

    #[test]
    fn objects_refer_to_slots_of_segments_that_are_there() {
        let segment = SegmentRecord {
            kind: SegmentKind::Sparse,
            state: SegmentState::Sealed,
            used: 130,
            capacity: 512,
        };
        let segments = Segments::from([(SegmentId(1), segment)]);
        let object = |segment, slot, count| {
            let extent = Extent {
                file_page: 0,
                segment: SegmentId(segment),
                slot: Slot(slot),
                count,
                dense: false,
            };
            let map = ExtentMap::new(u64::from(count) * 4096, vec![extent]).unwrap();
            ObjectRecord { phase: 0, map }
        };
        let mut slots = SlotsOfSegments::default();
        let id = ObjectId::of(b"object");
        slots.add(id, &object(1, 62, 3), &segments).unwrap();
        slots.add(id, &object(1, 129, 1), &segments).unwrap();
        for (segment, slot, count) in [(1, 129, 2), (1, 130, 1), (2, 0, 1)] {
            assert!(
                slots
                    .add(id, &object(segment, slot, count), &segments)
                    .is_err()
            );
        }
        let of = slots.of(SegmentId(1)).unwrap();
        assert_eq!(of.within(0, 130).collect::<Vec<_>>(), [62, 63, 64, 129]);
        assert_eq!(of.len(), 4);
        assert!(slots.touch(&object(1, 60, 3)));
        assert!(!slots.touch(&object(1, 65, 64)));
        assert!(!slots.touch(&object(3, 62, 1)));
        assert!(!Slots::default().contains(7) && Slots::default().is_empty());
    }
}
