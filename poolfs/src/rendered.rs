//! Files made for reading, kept for the next reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::digest::ObjectId;
use pool_store::Result;

use crate::tree::Place;

/// Files kept at the same time.
const MOST_FILES: usize = 1024;
/// Their bytes together; a larger file is made for each reader.
const MOST_BYTES: usize = 64 << 20;

/// What a file was made from: the number of the store's state, and of an image's file its manifest. A state
/// of the store may be newer than the number it is known by.
pub(crate) type State = (u64, Option<ObjectId>);

/// The files that are kept, each with what it was made from.
#[derive(Debug, Default)]
pub(crate) struct RenderedFiles(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<Place, (State, Arc<[u8]>)>,
    bytes: usize,
}

impl RenderedFiles {
    /// The file at `place` as of `state`, made once for each.
    pub(crate) fn get(
        &self,
        place: &Place,
        state: State,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<[u8]>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((as_of, bytes)) = kept.files.get(place)
            && *as_of == state
        {
            return Ok(Arc::clone(bytes));
        }
        drop(kept);
        let bytes: Arc<[u8]> = make()?.into();
        if bytes.len() <= MOST_BYTES {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.keep(place, state, &bytes);
        }
        Ok(bytes)
    }
}

impl Kept {
    fn keep(&mut self, place: &Place, state: State, bytes: &Arc<[u8]>) {
        if let Some((_, old)) = self.files.remove(place) {
            self.bytes -= old.len();
        }
        if self.files.len() >= MOST_FILES || self.bytes + bytes.len() > MOST_BYTES {
            self.files.clear();
            self.bytes = 0;
        }
        self.bytes += bytes.len();
        let file = (state, Arc::clone(bytes));
        self.files.insert(place.clone(), file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(nth: usize) -> Place {
        let name = format!("n{nth}").parse().unwrap();
        Place::LibraryName(name)
    }

    #[test]
    fn a_file_is_made_once_for_each_state() {
        let files = RenderedFiles::default();
        let made_of = |state, text: &str| {
            let make = || Ok(text.as_bytes().to_vec());
            files.get(&place(1), state, make).unwrap()
        };
        let made = |number, text: &str| made_of((number, None), text);
        assert_eq!(*made(1, "a"), *b"a");
        assert_eq!(*made(1, "b"), *b"a");
        assert_eq!(*made(2, "b"), *b"b");
        let manifest = Some(ObjectId::of(b"other"));
        assert_eq!(*made_of((2, manifest), "c"), *b"c");
        let kept = files.0.lock().unwrap();
        assert_eq!((kept.files.len(), kept.bytes), (1, 1));
    }

    #[test]
    fn neither_many_files_nor_large_ones_fill_the_memory() {
        let files = RenderedFiles::default();
        let get = |nth, length| {
            let bytes = files
                .get(&place(nth), (1, None), || Ok(vec![0; length]))
                .unwrap();
            assert_eq!(bytes.len(), length);
            let kept = files.0.lock().unwrap();
            let bytes: usize = kept.files.values().map(|(_, bytes)| bytes.len()).sum();
            assert_eq!(kept.bytes, bytes);
            assert!(bytes <= MOST_BYTES && kept.files.len() <= MOST_FILES);
            kept.files.len()
        };
        for nth in 0..=MOST_FILES {
            get(nth, 1);
        }
        assert_eq!(get(0, MOST_BYTES + 1), 1);
        assert_eq!(get(1, MOST_BYTES), 1);
        assert_eq!(get(2, MOST_BYTES), 1);
    }
}
