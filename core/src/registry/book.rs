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
use crate::digest::ObjectId;
use crate::name::LibraryRef;
use crate::page::{PAGE_SIZE, PAGES_PER_WINDOW, PageCount, WINDOW_SIZE};

/// Pages to which slots of less than [`WINDOW_FROM`] are rounded and aligned.
const SMALL_GRANULE: u64 = 4;

/// All reservations, and the rule by which the next one is made. Pure: whoever owns a book
/// persists what [`AddressBook::reserve`] returns before answering with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AddressBook {
    reservations: Vec<Reservation>,
    /// By identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    places: BTreeMap<ObjectId, Places>,
}

impl AddressBook {
    /// A book of reservations made before.
    pub fn new(reservations: Vec<Reservation>) -> Self {
        Self {
            reservations,
            places: BTreeMap::new(),
        }
    }

    /// What is known of where things are in a library version. `places` are those on record, by identity.
    pub fn known<E>(
        &self,
        library: &LibraryRef,
        places: impl Fn(&ObjectId) -> Result<Option<Places>, E>,
    ) -> Result<Known, E> {
        if let Some(own) = self.get(library) {
            let request = &own.request;
            let Some(keeps) = &request.keeps else {
                return Ok(Known::Alone);
            };
            let places = places(&request.identity)?;
            return Ok(places.map_or(Known::Nothing, |places| Known::Keeping {
                version: keeps.clone(),
                places,
            }));
        }
        let versions = self.reservations.iter().rev();
        for earlier in versions.filter(|r| r.request.library.name == library.name) {
            if let Some(places) = places(&earlier.request.identity)? {
                let version = earlier.request.library.clone();
                return Ok(Known::Earlier { version, places });
            }
        }
        Ok(Known::Nothing)
    }

    /// The places on record of the version with this identity.
    pub fn places(&self, identity: &ObjectId) -> Option<&Places> {
        self.places.get(identity)
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
            if known.request.is_as(request)
                || known.request.identity == request.identity
                    && known.request.keeps != request.keeps
            {
                return Ok(known.clone());
            }
            return Err(ReserveError::Conflict {
                library: request.library.clone(),
                registered: known.request.identity,
                requested: request.identity,
            });
        }
        let slot = match self.slot_of_earlier_version(request) {
            Some(slot) => slot,
            None => self.new_slot(request)?,
        };
        let mut request = request.clone();
        let places = request.places.take();
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
        };
        self.reservations.push(reservation.clone());
        if let Some(places) = places {
            self.places.insert(request.identity, places);
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
                self.places.remove(&undone.request.identity);
            }
        }
        reserved
    }

    fn slot_of_earlier_version(&self, request: &ReservationRequest) -> Option<AddressSlot> {
        self.reservations
            .iter()
            .filter(|r| r.request.library.name == request.library.name)
            .map(|r| r.slot)
            .find(|slot| {
                request.shared_pages <= slot.shared.pages
                    && slot
                        .shared
                        .start
                        .0
                        .is_multiple_of(request.shared_alignment.max(1))
                    && request.private_pages <= slot.private.pages
                    && request.tls_size <= slot.tls_size
                    && (request.tls_size == 0
                        || slot.tls_offset.is_multiple_of(request.tls_alignment.max(1)))
            })
    }

    fn new_slot(&self, request: &ReservationRequest) -> Result<AddressSlot, ReserveError> {
        let grown = |pages: PageCount| pages.0.saturating_add(pages.0 / 4);
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
        let shared = self.first_fit(
            request,
            AddressRegion {
                start: SHARED_START,
                end: PRIVATE_START,
                granule,
            },
            pages,
            |slot| slot.shared,
        )?;
        let private = self.first_fit(
            request,
            AddressRegion {
                start: PRIVATE_START,
                end: PRIVATE_END,
                granule: 1,
            },
            grown(request.private_pages).saturating_add(2),
            |slot| slot.private,
        )?;
        let (tls_offset, tls_size) = self.tls_room(request)?;
        Ok(AddressSlot {
            shared,
            private,
            tls_offset,
            tls_size,
        })
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

/// A part of the address space in which slots are placed.
#[derive(Clone, Copy)]
struct AddressRegion {
    start: GuestAddress,
    end: GuestAddress,
    /// Pages to which slots are rounded and aligned.
    granule: u64,
}
