//! All reservations, and the rule by which the next one is made.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    AddressRange, AddressSlot, Known, MAX_TLS_ALIGNMENT, PRIVATE_END, PRIVATE_START, Places,
    Reservation, ReservationRequest, ReserveError, SHARED_START, TLS_CAPACITY, TlsBlock,
    WINDOW_FROM,
};
use crate::address::GuestAddress;
use crate::name::LibraryRef;
use crate::page::{PAGE_SIZE, PAGES_PER_WINDOW, PageCount, WINDOW_SIZE};

/// Pages to which slots of less than [`WINDOW_FROM`] are rounded and aligned.
const SMALL_GRANULE: u64 = 4;

/// All reservations, and the rule by which the next one is made. Pure: whoever owns a book
/// persists what [`AddressBook::reserve`] returns before answering with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AddressBook {
    reservations: Vec<Reservation>,
    /// Where everything is in versions, as linkers have it on record.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    places: BTreeMap<LibraryRef, Places>,
}

impl AddressBook {
    /// A book of reservations made before.
    pub fn new(reservations: Vec<Reservation>) -> Self {
        Self {
            reservations,
            places: BTreeMap::new(),
        }
    }

    /// What is known of where things are in a library version. `places` are those on record.
    pub fn known<E>(
        &self,
        library: &LibraryRef,
        places: impl Fn(&LibraryRef) -> Result<Option<Places>, E>,
    ) -> Result<Known, E> {
        if let Some(own) = self.get(library) {
            let Some(keeps) = &own.request.keeps else {
                return Ok(Known::Alone);
            };
            let places = places(library)?;
            return Ok(places.map_or(Known::Nothing, |places| Known::Keeping {
                version: keeps.clone(),
                places,
            }));
        }
        let versions = self.reservations.iter().rev();
        for earlier in versions.filter(|r| r.request.library.name == library.name) {
            let version = &earlier.request.library;
            if let Some(places) = places(version)? {
                let version = version.clone();
                return Ok(Known::Earlier { version, places });
            }
        }
        Ok(Known::Nothing)
    }

    /// The places on record of a version.
    pub fn places(&self, library: &LibraryRef) -> Option<&Places> {
        self.places.get(library)
    }

    /// All reservations, oldest first.
    pub fn reservations(&self) -> &[Reservation] {
        &self.reservations
    }

    /// The reservation of a library version.
    pub fn get(&self, library: &LibraryRef) -> Option<&Reservation> {
        self.reservations
            .iter()
            .find(|r| r.request.library == *library)
    }

    /// Reserves addresses for a library version, or repeats the answer given before. A version that was registered keeping
    /// other places than are asked for stays as it is: the first one decides, and the answer says what that was.
    pub fn reserve(&mut self, request: &ReservationRequest) -> Result<Reservation, ReserveError> {
        if let Some(known) = self.get(&request.library) {
            return answer_again(known, request);
        }
        if let Some(version) = &request.keeps {
            let is_earlier = version.name == request.library.name && self.get(version).is_some();
            if !is_earlier || request.places.is_none() {
                return Err(ReserveError::Keeps {
                    library: request.library.clone(),
                    version: version.clone(),
                });
            }
        }
        let slot = self.slot(request)?;
        let mut request = request.clone();
        let places = request.places.take();
        let kept = places.as_ref().filter(|_| request.keeps.is_some());
        let follows = kept.map(Places::digest);
        let reservation = Reservation {
            request: request.clone(),
            shared: AddressRange {
                start: slot.shared.start,
                pages: request.shared_pages,
            },
            private: AddressRange {
                start: slot.private.start,
                pages: request.private_pages,
            },
            tls: TlsBlock {
                offset: if request.tls_size == 0 {
                    0
                } else {
                    slot.tls_offset
                },
                size: request.tls_size,
            },
            slot,
            follows,
        };
        self.reservations.push(reservation.clone());
        if let Some(places) = places {
            self.places.insert(request.library, places);
        }
        Ok(reservation)
    }

    /// The same for several library versions, in their order: all of them, or none when one is refused.
    pub fn reserve_all(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, ReserveError> {
        let before = self.reservations.len();
        let reserved = requests.iter().map(|request| self.reserve(request));
        let reserved: Result<_, _> = reserved.collect();
        if reserved.is_err() {
            for undone in self.reservations.drain(before..) {
                self.places.remove(&undone.request.library);
            }
        }
        reserved
    }

    /// The room for a version: of each kind that of an earlier one, if it is large enough, first of the one whose places it
    /// keeps.
    fn slot(&self, request: &ReservationRequest) -> Result<AddressSlot, ReserveError> {
        let versions = self.reservations.iter();
        let versions = versions.filter(|r| r.request.library.name == request.library.name);
        let kept = request.keeps.as_ref().and_then(|keeps| self.get(keeps));
        let earlier: Vec<AddressSlot> = kept.into_iter().chain(versions).map(|r| r.slot).collect();
        let shared = earlier.iter().map(|slot| slot.shared).find(|shared| {
            let alignment = request.shared_alignment.max(1);
            request.shared_pages <= shared.pages && shared.start.0.is_multiple_of(alignment)
        });
        let shared = shared.map_or_else(|| self.shared_room(request), Ok)?;
        let private = earlier.iter().map(|slot| slot.private);
        let private = private
            .into_iter()
            .find(|private| request.private_pages <= private.pages);
        let private = private.map_or_else(|| self.private_room(request), Ok)?;
        let tls = earlier.iter().find(|slot| {
            let alignment = request.tls_alignment.max(1);
            request.tls_size == 0
                || request.tls_size <= slot.tls_size && slot.tls_offset.is_multiple_of(alignment)
        });
        let tls = tls.map(|slot| (slot.tls_offset, slot.tls_size));
        let (tls_offset, tls_size) = tls.map_or_else(|| self.tls_room(request), Ok)?;
        Ok(AddressSlot {
            shared,
            private,
            tls_offset,
            tls_size,
        })
    }

    fn shared_room(&self, request: &ReservationRequest) -> Result<AddressRange, ReserveError> {
        let alignment = request.shared_alignment;
        if !alignment.is_power_of_two() || !(PAGE_SIZE..=WINDOW_SIZE).contains(&alignment) {
            return Err(ReserveError::Alignment {
                library: request.library.clone(),
                alignment,
            });
        }
        let pages = grown(request.shared_pages).max(1);
        let granule = if pages < WINDOW_FROM.0 {
            SMALL_GRANULE.max(alignment / PAGE_SIZE)
        } else {
            PAGES_PER_WINDOW
        };
        let region = AddressRegion {
            start: SHARED_START,
            end: PRIVATE_START,
            granule,
        };
        self.first_fit(request, region, pages, |slot| slot.shared)
    }

    fn private_room(&self, request: &ReservationRequest) -> Result<AddressRange, ReserveError> {
        let region = AddressRegion {
            start: PRIVATE_START,
            end: PRIVATE_END,
            granule: 1,
        };
        let pages = grown(request.private_pages).saturating_add(2);
        self.first_fit(request, region, pages, |slot| slot.private)
    }

    /// The lowest free run of `pages` pages in `region`, both rounded to its granule.
    fn first_fit(
        &self,
        request: &ReservationRequest,
        region: AddressRegion,
        pages: u64,
        part: impl Fn(&AddressSlot) -> AddressRange,
    ) -> Result<AddressRange, ReserveError> {
        let full = || ReserveError::Full {
            library: request.library.clone(),
            pages: PageCount(pages),
            start: region.start,
            end: region.end,
        };
        let capacity = (region.end.0 - region.start.0) / PAGE_SIZE;
        if pages > capacity {
            return Err(full());
        }
        let pages = PageCount(pages.next_multiple_of(region.granule));
        let mut taken: Vec<AddressRange> =
            self.reservations.iter().map(|r| part(&r.slot)).collect();
        taken.sort_unstable();
        let mut candidate = AddressRange {
            start: region.start,
            pages,
        };
        for range in taken {
            if candidate.overlaps(&range) {
                let granule = region.granule * PAGE_SIZE;
                candidate.start = GuestAddress(range.end().0.next_multiple_of(granule));
            }
        }
        if candidate.end() <= region.end {
            Ok(candidate)
        } else {
            Err(full())
        }
    }

    /// Room for thread-local storage below all that was handed out before.
    fn tls_room(&self, request: &ReservationRequest) -> Result<(u64, u64), ReserveError> {
        if request.tls_size == 0 {
            return Ok((0, 0));
        }
        let used = self
            .reservations
            .iter()
            .map(|r| r.slot.tls_offset)
            .max()
            .unwrap_or(0);
        let alignment = request.tls_alignment;
        let valid = alignment.is_power_of_two()
            && alignment <= MAX_TLS_ALIGNMENT
            && request.tls_size <= TLS_CAPACITY;
        let end = (used + request.tls_size.min(TLS_CAPACITY)).next_multiple_of(if valid {
            alignment
        } else {
            1
        });
        if !valid || end > TLS_CAPACITY {
            return Err(ReserveError::Tls {
                library: request.library.clone(),
                size: request.tls_size,
                alignment,
                free: TLS_CAPACITY - used,
            });
        }
        Ok((end, end - used))
    }
}

/// What a version that is registered is answered.
fn answer_again(
    known: &Reservation,
    request: &ReservationRequest,
) -> Result<Reservation, ReserveError> {
    let library = request.library.clone();
    let (registered, requested) = (known.request.identity, request.identity);
    if registered != requested {
        return Err(ReserveError::Conflict {
            library,
            registered,
            requested,
        });
    }
    // Who keeps places, or would, is told what was decided; sizes follow from that.
    let keeps = known.request.keeps.is_some() || request.keeps.is_some();
    if !keeps && !known.request.is_as(request) {
        return Err(ReserveError::Layout { library });
    }
    Ok(known.clone())
}

/// Pages with room to grow.
fn grown(pages: PageCount) -> u64 {
    pages.0.saturating_add(pages.0 / 4)
}

/// A part of the address space in which slots are placed.
#[derive(Clone, Copy)]
struct AddressRegion {
    start: GuestAddress,
    end: GuestAddress,
    /// Pages to which slots are rounded and aligned.
    granule: u64,
}
