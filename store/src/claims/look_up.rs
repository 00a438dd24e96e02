//! Looking the pages of an upload up, once.

use std::collections::HashSet;

use pool_core::digest::PageId;
use pool_core::page::PAGE_SIZE;

use super::reader::PageReader;
use super::{Given, Piece, pieces};
use crate::Store;
use crate::error::Result;
use crate::format::Location;
use crate::look::{Look, Looked};
use crate::moment::Moment;
use crate::parallel;
use crate::upload::UploadObject;

/// Most pages of which it is remembered where they were found: of 16 GiB, which takes 48 MiB of memory.
const MOST_FOUND: usize = 1 << 22;

/// Pieces that all processors look up together, which bounds what is not yet remembered of them.
const TOGETHER: usize = 64;

/// Pages that are nowhere, each once.
#[derive(Default)]
struct Missing {
    pages: Vec<PageId>,
    seen: HashSet<PageId>,
}

impl Missing {
    /// Adds those of a piece that are neither at a place nor given.
    fn add(&mut self, piece: &Piece<'_>, at: &[Option<Location>], given: Given<'_>) {
        let Given::Sent(upload) = given else { return };
        let sent = upload.offsets();
        for (id, at) in piece.pages.iter().zip(at) {
            if let (Some(id), None) = (id, at)
                && !sent.contains_key(id)
                && self.seen.insert(*id)
            {
                self.pages.push(*id);
            }
        }
    }
}

impl Store {
    /// Looks all pages of an upload up, but for what is still known of an `earlier` look at it, and says which are neither
    /// stored nor sent: each once, in the order announced. What the store is known to have damaged is not stored; of a window
    /// that it has all pages are.
    pub(crate) fn look_up(
        &self,
        objects: &[UploadObject],
        given: Given<'_>,
        earlier: Option<&Look>,
    ) -> Result<(Look, Vec<PageId>)> {
        // Before anything is looked for.
        let moment = Moment::of(self, &self.joining());
        let reader = PageReader::new(self, given);
        let mut found = Vec::with_capacity(objects.len());
        let mut missing = Missing::default();
        let mut remembered = 0;
        for (nth, object) in objects.iter().enumerate() {
            let mut list = Vec::new();
            if self.whole_object(object.id)?.is_none() {
                let pages = object.pages.len();
                if remembered + pages <= MOST_FOUND {
                    remembered += pages;
                    list.resize(pages, Looked::Not);
                }
                let parts = reader.parts(object)?;
                let mut unknown = Vec::new();
                for part in &parts {
                    if reader.known_window(part)?.is_none() {
                        unknown.extend(pieces(object, part));
                    }
                }
                for pieces in unknown.chunks(TOGETHER) {
                    let pages: usize = pieces.iter().map(|piece| piece.pages.len()).sum();
                    let threads = parallel::threads_for(pages * PAGE_SIZE as usize);
                    let places = parallel::in_parts(pieces, threads, |pieces| {
                        let places = pieces.iter().map(|piece| {
                            let (first, count) = (piece.first_page, piece.pages.len());
                            let known = earlier.map(|look| look.at(&moment, nth, first, count));
                            reader.locate(piece.pages, &known.unwrap_or_default())
                        });
                        places.collect()
                    });
                    for (piece, at) in pieces.iter().zip(places) {
                        let at = at?;
                        let list = list.iter_mut().skip(piece.first_page as usize);
                        for (looked, at) in list.zip(&at) {
                            *looked = at.map_or(Looked::Nowhere, Looked::Found);
                        }
                        missing.add(piece, &at, given);
                    }
                }
            }
            found.push(list);
        }
        Ok((Look::new(moment.since(), found), missing.pages))
    }
}
