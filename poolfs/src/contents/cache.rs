//! What was found in a state of the store, kept for whoever asks next.
//!
//! A start asks for an image's map three times: the kernel for its name, and [`hold`](super::Contents::hold) before and
//! after it takes leases. To find it anew is to read and to write JSON, and to hash that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::extent::SegmentId;

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
    places: HashMap<Place, (u64, Found)>,
    bytes: usize,
}

impl FoundCache {
    /// What is at `place` in `state`, if it was found before.
    pub(super) fn get(&self, place: &Place, state: u64) -> Option<Found> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (as_of, found) = kept.places.get(place)?;
        (*as_of == state).then(|| found.clone())
    }

    /// Keeps what was found at `place` in `state`.
    pub(super) fn keep(&self, place: &Place, state: u64, found: &Found) {
        if found.bytes_kept() > MOST_BYTES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(place.clone(), state, found.clone());
    }

    /// Adds to `found`, if it is what is kept of `place` in `state`, the segments that it holds in that state.
    pub(super) fn add_segments(
        &self,
        place: &Place,
        state: u64,
        found: &Found,
        segments: &Arc<[SegmentId]>,
    ) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((as_of, there)) = kept.places.get_mut(place)
            && *as_of == state
            // It may be what was there before, which somebody had looked up.
            && there.version == found.version
            && there.holds == found.holds
        {
            there.segments = Some(Arc::clone(segments));
        }
    }
}

impl Kept {
    fn put(&mut self, place: Place, state: u64, found: Found) {
        if let Some((as_of, old)) = self.places.get(&place) {
            // Somebody who has seen an older state was slow.
            if *as_of > state {
                return;
            }
            self.bytes -= old.bytes_kept();
            self.places.remove(&place);
        }
        if self.places.len() >= MOST_PLACES || self.bytes + found.bytes_kept() > MOST_BYTES {
            self.places.clear();
            self.bytes = 0;
        }
        self.bytes += found.bytes_kept();
        self.places.insert(place, (state, found));
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

    #[test]
    fn what_was_found_is_of_one_state() {
        let cache = FoundCache::default();
        let keep = |state, text: &str| {
            cache.keep(&place(1), state, &Found::of_bytes(text.as_bytes().into()));
        };
        let get = |state| text(cache.get(&place(1), state));
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
    fn segments_are_those_of_what_is_kept() {
        let cache = FoundCache::default();
        let [old, new] = [b"old", b"new"].map(|bytes| Found::of_bytes(bytes.as_slice().into()));
        let segments = Arc::from([SegmentId(1)]);
        let known = |state| cache.get(&place(1), state).and_then(|found| found.segments);
        cache.keep(&place(1), 2, &new);
        cache.add_segments(&place(1), 2, &old, &segments);
        cache.add_segments(&place(1), 1, &new, &segments);
        cache.add_segments(&place(2), 2, &new, &segments);
        assert_eq!(known(2), None);
        cache.add_segments(&place(1), 2, &new, &segments);
        assert_eq!(known(2), Some(segments));
        cache.keep(&place(1), 3, &new);
        assert_eq!(known(3), None);
    }

    #[test]
    fn neither_many_places_nor_large_files_fill_the_memory() {
        let cache = FoundCache::default();
        let keep = |nth, length| {
            cache.keep(&place(nth), 1, &Found::of_bytes(vec![0; length].into()));
            let kept = cache.0.lock().unwrap();
            let bytes: usize = kept
                .places
                .values()
                .map(|(_, found)| found.bytes_kept())
                .sum();
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
