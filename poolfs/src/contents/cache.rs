//! What was found in a state of the store, kept for whoever asks next.
//!
//! A start asks for an image's map three times: the kernel for its name, and [`hold`](super::Contents::hold) before and
//! after it takes leases. To find it anew is to read and to write JSON, and to hash that. So it is kept as long as nothing has changed of
//! what it was made of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::extent::SegmentId;
use pool_store::Reads;

use super::Found;
use crate::tree::Place;

/// Places kept at the same time.
const MOST_PLACES: usize = 4096;
/// Bytes that what they lead to may keep in memory; of what has more, each asks the store.
const MOST_BYTES: usize = 64 << 20;

/// What is at places, each as of a state of the store.
#[derive(Debug, Default)]
pub(super) struct FoundCache(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    places: HashMap<Place, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// The last state of which it is known that it is so.
    state: u64,
    found: Found,
    /// What it was made of.
    reads: Reads,
    /// The same of its segments.
    segments_reads: Reads,
}

impl FoundCache {
    /// What is at `place` in `state`, if it was found before; `keeps` says whether that state has what was read in an earlier one.
    pub(super) fn get(
        &self,
        place: &Place,
        state: u64,
        keeps: impl Fn(&Reads, u64) -> bool,
    ) -> Option<Found> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kept.places.get_mut(place)?;
        if entry.state != state {
            // Somebody who has seen an older state is slow.
            if entry.state > state || !keeps(&entry.reads, entry.state) {
                return None;
            }
            if !keeps(&entry.segments_reads, entry.state) {
                entry.found.segments = None;
            }
            entry.state = state;
        }
        Some(entry.found.clone())
    }

    /// Keeps what was found at `place` in `state` by these `reads`.
    pub(super) fn keep(&self, place: &Place, state: u64, found: &Found, reads: Reads) {
        let entry = Entry {
            state,
            found: found.clone(),
            reads,
            segments_reads: Reads::default(),
        };
        if entry.bytes_kept() > MOST_BYTES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(place.clone(), entry);
    }

    /// Adds to `found`, if it is what is kept of `place` in `state`, the segments that it holds in that state, found by these `reads`.
    pub(super) fn add_segments(
        &self,
        place: &Place,
        state: u64,
        found: &Found,
        segments: &Arc<[SegmentId]>,
        reads: Reads,
    ) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        if let Some(entry) = kept.places.get_mut(place)
            && entry.state == state
            // It may be what was there before, which somebody had looked up.
            && entry.found.version == found.version
            && entry.found.holds == found.holds
        {
            kept.bytes -= entry.bytes_kept();
            entry.found.segments = Some(Arc::clone(segments));
            entry.segments_reads = reads;
            kept.bytes += entry.bytes_kept();
        }
    }
}

impl Entry {
    fn bytes_kept(&self) -> usize {
        self.found.bytes_kept() + self.reads.bytes_kept() + self.segments_reads.bytes_kept()
    }
}

impl Kept {
    fn put(&mut self, place: Place, entry: Entry) {
        if let Some(old) = self.places.get(&place) {
            // Somebody who has seen an older state was slow.
            if old.state > entry.state {
                return;
            }
            self.bytes -= old.bytes_kept();
            self.places.remove(&place);
        }
        if self.places.len() >= MOST_PLACES || self.bytes + entry.bytes_kept() > MOST_BYTES {
            self.places.clear();
            self.bytes = 0;
        }
        self.bytes += entry.bytes_kept();
        self.places.insert(place, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;

    fn place(nth: usize) -> Place {
        let name = format!("n{nth}").parse().unwrap();
        Place::LibraryName(name)
    }

    fn text(found: Option<Found>) -> Option<String> {
        found.map(|found| match found.content {
            Content::Rendered(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?} is not what was kept"),
        })
    }

    fn none(_: &Reads, _: u64) -> bool {
        false
    }

    #[test]
    fn what_was_found_is_of_one_state() {
        let cache = FoundCache::default();
        let keep = |state, text: &str| {
            let found = Found::of_bytes(text.as_bytes().into());
            cache.keep(&place(1), state, &found, Reads::default());
        };
        let get = |state| text(cache.get(&place(1), state, none));
        assert_eq!(get(1), None);
        keep(1, "a");
        assert_eq!(get(1).as_deref(), Some("a"));
        assert_eq!((get(0), get(2)), (None, None));
        keep(2, "bc");
        assert_eq!((get(1), get(2).as_deref()), (None, Some("bc")));
        // An older state does not take a newer one's place.
        keep(1, "a");
        assert_eq!(get(2).as_deref(), Some("bc"));
        let kept = cache.0.lock().unwrap();
        let bytes = Found::of_bytes(b"bc".as_slice().into()).bytes_kept();
        assert_eq!((kept.places.len(), kept.bytes), (1, bytes));
    }

    #[test]
    fn what_is_made_of_the_same_is_found_in_later_states() {
        let cache = FoundCache::default();
        let found = Found::of_bytes(b"a".as_slice().into());
        cache.keep(&place(1), 1, &found, Reads::default());
        let get = |state, keeps: bool| {
            let asked = |_: &Reads, since| {
                assert!(since < state, "a state is as it is");
                keeps
            };
            cache.get(&place(1), state, asked).is_some()
        };
        assert!(get(3, true) && get(3, false));
        assert!(!get(4, false) && !get(2, true), "an older one is not asked");
        assert!(get(5, true) && get(5, false));
    }

    #[test]
    fn segments_are_those_of_what_is_kept() {
        let cache = FoundCache::default();
        let [old, new] = [b"old", b"new"].map(|bytes| Found::of_bytes(bytes.as_slice().into()));
        let segments = Arc::from([SegmentId(1)]);
        let known = |state| {
            let found = cache.get(&place(1), state, none);
            found.and_then(|found| found.segments)
        };
        let keep = |state| cache.keep(&place(1), state, &new, Reads::default());
        let add = |nth, state, found| {
            cache.add_segments(&place(nth), state, found, &segments, Reads::default());
        };
        keep(2);
        add(1, 2, &old);
        add(1, 1, &new);
        add(2, 2, &new);
        assert_eq!(known(2), None);
        add(1, 2, &new);
        assert_eq!(known(2), Some(segments.clone()));
        keep(3);
        assert_eq!(known(3), None);
        // They may lie elsewhere, of what is the same.
        add(1, 3, &new);
        let asked = std::cell::Cell::new(0);
        let first = |_: &Reads, _| asked.replace(asked.get() + 1) == 0;
        let found = cache.get(&place(1), 4, first).unwrap();
        assert_eq!((found.segments, asked.get()), (None, 2));
    }

    #[test]
    fn neither_many_places_nor_large_files_fill_the_memory() {
        let cache = FoundCache::default();
        let keep = |nth, length| {
            let found = Found::of_bytes(vec![0; length].into());
            cache.keep(&place(nth), 1, &found, Reads::default());
            let kept = cache.0.lock().unwrap();
            let bytes: usize = kept.places.values().map(Entry::bytes_kept).sum();
            assert_eq!(kept.bytes, bytes);
            assert!(bytes <= MOST_BYTES && kept.places.len() <= MOST_PLACES);
            kept.places.len()
        };
        for nth in 0..=MOST_PLACES {
            keep(nth, 1);
        }
        assert_eq!(keep(0, MOST_BYTES + 1), 1);
        assert_eq!(keep(1, MOST_BYTES / 2), 2);
        assert_eq!(keep(2, MOST_BYTES / 2 + 1), 1);
    }
}
