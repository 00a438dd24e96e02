//! The address registry: which library version lives at which address, in every image.
//!
//! Text is byte-identical across images only if nothing in it depends on the image: not the
//! library's own address, not the address of its writable data, and not the offsets of its
//! thread-local variables. So all of these are
//! *reserved*, once, when a library version is first linked, and never change.
//!
//! The low 2 GiB are divided so that code compiled for the small code model (absolute 32-bit
//! relocations) works anywhere in it:
//!
//! | addresses | hold | granule |
//! |---|---|---|
//! | `0x0040_0000..0x1000_0000` | the application | - |
//! | `0x1000_0000..0x6000_0000` | shared text and rodata of libraries | 2 MiB window, or 4 pages |
//! | `0x6000_0000..0x7000_0000` | private pages of libraries: data, bss, tables the image fills | page |
//!
//! Versions of one library never meet in one image, so they share one *slot*: the same base, with
//! room to grow. That keeps 2 GiB enough for many libraries with any number of versions,
//! and lets pages that a new version leaves unchanged keep their addresses. A version that
//! outgrows its library's slots gets a new slot.
//!
//! Windows are for what can be mapped whole. A library of a few pages, which is stored page by page anyway, lies in
//! a window with others: so there is room for 640 large ones and for thousands of small ones, and a guest that uses
//! several needs fewer page tables.

mod places;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::GuestAddress;
use crate::digest::ObjectId;
use crate::name::LibraryRef;
use crate::page::{PAGE_SIZE, PAGES_PER_WINDOW, PageCount, WINDOW_SIZE};

pub use places::{MAX_PLACES, Places};

/// Where applications are linked.
pub const APPLICATION_START: GuestAddress = GuestAddress(0x40_0000);
/// First address for shared library pages, and the end of the application's room.
pub const SHARED_START: GuestAddress = GuestAddress(0x1000_0000);
/// First address for private library pages, and the end of the shared ones.
pub const PRIVATE_START: GuestAddress = GuestAddress(0x6000_0000);
/// End of the private library pages.
pub const PRIVATE_END: GuestAddress = GuestAddress(0x7000_0000);
/// Most bytes of thread-local storage that all libraries together may reserve: each thread of
/// an image pays for the furthest offset that it uses.
pub const TLS_CAPACITY: u64 = 1 << 20;
/// Largest alignment of thread-local storage that a library may ask for.
pub const MAX_TLS_ALIGNMENT: u64 = 4096;

/// Slots of fewer pages lie in windows with others. So few pages of a window are stored one by one, unless a store was
/// made otherwise.
pub const WINDOW_FROM: PageCount = PageCount(32);
/// Pages to which their slots are rounded and aligned.
const SMALL_GRANULE: u64 = 4;

/// A run of pages in the address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange {
    /// First byte, a multiple of the page size.
    pub start: GuestAddress,
    /// Pages; may be zero.
    pub pages: PageCount,
}

impl AddressRange {
    /// First address past the range.
    pub fn end(&self) -> GuestAddress {
        GuestAddress(self.start.0 + self.pages.bytes())
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// Thread-local storage of a library: the block lies at `[TP - offset, TP - offset + size)`,
/// where TP is the thread pointer (x86-64 ABI, TLS variant II).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsBlock {
    /// Distance of the block's first byte below the thread pointer; a multiple of the alignment.
    pub offset: u64,
    /// Bytes; zero when the library has no thread-local variables.
    pub size: u64,
}

/// What a library version needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRequest {
    /// Name and version.
    pub library: LibraryRef,
    /// Digest of all that determines its linked bytes but for its addresses: its members.
    pub identity: ObjectId,
    /// Text and rodata.
    pub shared_pages: PageCount,
    /// Data, bss and tables.
    pub private_pages: PageCount,
    /// Bytes to which its text and rodata are aligned, a power of two: a page at least, a window at most.
    #[serde(default = "page", skip_serializing_if = "is_page")]
    pub shared_alignment: u64,
    /// Bytes of thread-local storage.
    #[serde(default)]
    pub tls_size: u64,
    /// Its alignment, a power of two; 1 when there is none.
    #[serde(default = "one")]
    pub tls_alignment: u64,
    /// What linkers up to layout 2 made part of its bytes. It decides nothing now, and is written empty.
    #[serde(default)]
    pub dependencies: Vec<LibraryRef>,
    /// The earlier version whose places it keeps. Together with its members and its addresses that determines its linked
    /// bytes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub keeps: Option<LibraryRef>,
    /// Where in it everything is, for later versions and for whoever links this one again. Kept apart from the
    /// reservation, in which there is none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub places: Option<Places>,
}

impl ReservationRequest {
    /// True when both ask for the same room, for a version that keeps the same places.
    pub fn is_as(&self, other: &Self) -> bool {
        let Self {
            library,
            identity,
            shared_pages,
            private_pages,
            shared_alignment,
            tls_size,
            tls_alignment,
            dependencies: _,
            keeps,
            places: _,
        } = self;
        *library == other.library
            && *identity == other.identity
            && *shared_pages == other.shared_pages
            && *private_pages == other.private_pages
            && *shared_alignment == other.shared_alignment
            && *tls_size == other.tls_size
            && *tls_alignment == other.tls_alignment
            && *keeps == other.keeps
    }
}

fn one() -> u64 {
    1
}

fn page() -> u64 {
    PAGE_SIZE
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_page(alignment: &u64) -> bool {
    *alignment == PAGE_SIZE
}

/// What a library version was given, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// What was asked for.
    #[serde(flatten)]
    pub request: ReservationRequest,
    /// Address of its text and rodata.
    pub shared: AddressRange,
    /// Address of its private pages.
    pub private: AddressRange,
    /// Its thread-local storage.
    pub tls: TlsBlock,
    /// The room that the library's versions share; the version begins at its start.
    pub slot: AddressSlot,
}

/// Room held for all versions of one library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressSlot {
    /// Room for text and rodata, in whole windows.
    pub shared: AddressRange,
    /// Room for private pages.
    pub private: AddressRange,
    /// Distance of the room for thread-local storage below the thread pointer.
    pub tls_offset: u64,
    /// Bytes of that room.
    pub tls_size: u64,
}

/// Why nothing was reserved.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReserveError {
    /// The version exists with other contents.
    #[error(
        "{library} is registered with other contents ({registered}, this link has {requested}), other \
         members or another linker's: a version never changes, so choose another version name"
    )]
    Conflict {
        /// The version.
        library: LibraryRef,
        /// Identity on record.
        registered: ObjectId,
        /// Identity asked for.
        requested: ObjectId,
    },
    /// A region is used up.
    #[error(
        "no room for {pages} pages of {library} between {start} and {end}: the low 2 GiB are used \
         up; retire library names that are no longer linked, or use a second registry"
    )]
    Full {
        /// The version.
        library: LibraryRef,
        /// Pages asked for, with room to grow.
        pages: PageCount,
        /// The region's start.
        start: GuestAddress,
        /// The region's end.
        end: GuestAddress,
    },
    /// No alignment, or one that no place has.
    #[error(
        "{library} asks for text aligned to {alignment} bytes: it is a power of two from \
         {PAGE_SIZE} to {WINDOW_SIZE}"
    )]
    Alignment {
        /// The version.
        library: LibraryRef,
        /// Asked for.
        alignment: u64,
    },
    /// Thread-local storage is used up, or the request for it makes no sense.
    #[error(
        "{library} asks for {size} bytes of thread-local storage aligned to {alignment}: {free} \
         bytes are left, and the alignment is a power of two up to {MAX_TLS_ALIGNMENT}"
    )]
    Tls {
        /// The version.
        library: LibraryRef,
        /// Bytes asked for.
        size: u64,
        /// Alignment asked for.
        alignment: u64,
        /// Bytes left.
        free: u64,
    },
}

/// All reservations, and the rule by which the next one is made. Pure: whoever owns a book
/// persists what [`AddressBook::reserve`] returns before answering with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AddressBook {
    reservations: Vec<Reservation>,
    /// By identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    places: BTreeMap<ObjectId, Places>,
}

/// Of a field that may be left out: what is there is no null.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// What is on record that decides where in a library version everything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Known {
    /// The version is registered, and keeps nobody's places.
    Alone,
    /// The version is registered; it keeps an earlier one's places, and its own are these.
    Keeping {
        /// The earlier one.
        version: LibraryRef,
        /// Where things are in the version itself.
        places: Places,
    },
    /// The version is new, and this is the latest one of its name.
    Earlier {
        /// The earlier one.
        version: LibraryRef,
        /// Where things are in that one.
        places: Places,
    },
    /// There is nothing that it could keep.
    Nothing,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(library: &str, shared: u64, private: u64) -> ReservationRequest {
        ReservationRequest {
            library: library.parse().unwrap(),
            identity: ObjectId::of(library.as_bytes()),
            shared_pages: PageCount(shared),
            private_pages: PageCount(private),
            shared_alignment: PAGE_SIZE,
            tls_size: 0,
            tls_alignment: 1,
            dependencies: vec![],
            keeps: None,
            places: None,
        }
    }

    #[test]
    fn libraries_never_overlap_and_versions_share_a_base() {
        let mut book = AddressBook::default();
        let zlib = book.reserve(&request("zlib@1.3", 25, 1)).unwrap();
        let musl = book.reserve(&request("musl@1.2.3", 150, 3)).unwrap();
        let newer = book.reserve(&request("zlib@1.3.1", 26, 1)).unwrap();
        assert_eq!(zlib.shared.start, SHARED_START);
        assert_eq!(zlib.shared.start.page_in_window(), 0);
        assert_eq!(newer.shared.start, zlib.shared.start);
        assert_eq!(newer.private.start, zlib.private.start);
        assert!(!zlib.slot.shared.overlaps(&musl.slot.shared));
        assert!(!zlib.slot.private.overlaps(&musl.slot.private));
    }

    #[test]
    fn a_version_that_outgrows_its_slot_moves() {
        let mut book = AddressBook::default();
        let old = book.reserve(&request("a@1", 400, 1)).unwrap();
        let new = book.reserve(&request("a@2", 600, 1)).unwrap();
        assert!(!old.slot.shared.overlaps(&new.slot.shared));
    }

    #[test]
    fn answers_repeat_and_contents_cannot_change() {
        let mut book = AddressBook::default();
        let first = book.reserve(&request("a@1", 10, 1)).unwrap();
        assert_eq!(book.reserve(&request("a@1", 10, 1)), Ok(first));
        let mut other = request("a@1", 10, 1);
        other.identity = ObjectId::of(b"other");
        assert!(matches!(
            book.reserve(&other),
            Err(ReserveError::Conflict { .. })
        ));
        assert_eq!(book.reservations().len(), 1);
    }

    #[test]
    fn who_registers_a_version_first_decides_what_it_keeps() {
        let places = |text: &str| Places::new(text.as_bytes().to_vec()).unwrap();
        let with = |version: &str, keeps: Option<&str>, text: &str| ReservationRequest {
            keeps: keeps.map(|keeps| keeps.parse().unwrap()),
            places: Some(places(text)),
            ..request(version, 10, 1)
        };
        let mut book = AddressBook::default();
        let known = |book: &AddressBook, library: &str| {
            let places = |identity: &ObjectId| Ok::<_, ()>(book.places(identity).cloned());
            book.known(&library.parse().unwrap(), places).unwrap()
        };
        assert_eq!(known(&book, "a@1"), Known::Nothing);
        let first = book.reserve(&with("a@1", None, "one")).unwrap();
        assert_eq!(first.request.places, None);
        assert_eq!(known(&book, "a@1"), Known::Alone);
        assert_eq!(known(&book, "b@1"), Known::Nothing);
        let (version, one) = ("a@1".parse().unwrap(), places("one"));
        let earlier = Known::Earlier {
            version,
            places: one,
        };
        assert_eq!(known(&book, "a@2"), earlier);
        let second = book.reserve(&with("a@2", Some("a@1"), "two")).unwrap();
        let late = with("a@2", None, "other");
        assert_eq!(book.reserve(&late), Ok(second));
        let (version, two) = ("a@1".parse().unwrap(), places("two"));
        let keeping = Known::Keeping {
            version,
            places: two,
        };
        assert_eq!(known(&book, "a@2"), keeping);
        // What is refused with others leaves nothing behind.
        let mut other = with("a@1", None, "other");
        other.identity = ObjectId::of(b"other");
        let three = with("a@3", Some("a@2"), "three");
        assert!(book.reserve_all(&[three.clone(), other]).is_err());
        assert_eq!(book.places(&three.identity), None);
        let text = serde_json::to_string(&book).unwrap();
        let again: AddressBook = serde_json::from_str(&text).unwrap();
        assert_eq!(known(&again, "a@2"), keeping);
    }

    #[test]
    fn of_several_all_are_reserved_or_none() {
        let mut book = AddressBook::default();
        let known = book.reserve(&request("a@1", 10, 1)).unwrap();
        let mut other = request("a@1", 10, 1);
        other.identity = ObjectId::of(b"other");
        let refused = book.reserve_all(&[request("b@1", 1, 1), other]);
        assert!(matches!(refused, Err(ReserveError::Conflict { .. })));
        assert_eq!(book.reservations(), std::slice::from_ref(&known));
        let all = [request("b@1", 1, 1), request("a@1", 10, 1)];
        let reserved = book.reserve_all(&all).unwrap();
        assert_eq!(reserved[1], known);
        assert_eq!(book.reservations(), [known, reserved[0].clone()]);
    }

    #[test]
    fn dependencies_on_record_decide_nothing() {
        let text = r#"{"reservations":[{"library":"a@1","identity":"IDENTITY","shared_pages":10,"private_pages":1,
            "dependencies":["c@2"],"shared":{"start":"0x10000000","pages":10},"private":{"start":"0x60000000","pages":1},
            "tls":{"offset":0,"size":0},"slot":{"shared":{"start":"0x10000000","pages":512},
            "private":{"start":"0x60000000","pages":3},"tls_offset":0,"tls_size":0}}]}"#;
        let identity = request("a@1", 10, 1).identity.to_string();
        let mut book: AddressBook =
            serde_json::from_str(&text.replace("IDENTITY", &identity)).unwrap();
        let known = book.reservations()[0].clone();
        assert_eq!(book.reserve(&request("a@1", 10, 1)), Ok(known));
    }

    #[test]
    fn exhaustion_is_an_error() {
        let mut book = AddressBook::default();
        for huge in [u64::MAX, u64::MAX / PAGE_SIZE, 1 << 20] {
            let refused = book.reserve(&request("a@1", huge, 1));
            assert!(matches!(refused, Err(ReserveError::Full { .. })), "{huge}");
            let refused = book.reserve(&request("a@1", 1, huge));
            assert!(matches!(refused, Err(ReserveError::Full { .. })), "{huge}");
        }
        let refused =
            (0..1000).find_map(|n| book.reserve(&request(&format!("l{n}@1"), 32, 1)).err());
        assert!(matches!(refused, Some(ReserveError::Full { .. })));
        assert_eq!(book.reservations().len(), 640);
    }

    #[test]
    fn small_libraries_share_windows_and_large_ones_do_not() {
        let mut book = AddressBook::default();
        let small: Vec<_> = (0..2000)
            .map(|n| book.reserve(&request(&format!("s{n}@1"), 3, 1)).unwrap())
            .collect();
        assert_eq!(
            small[1].shared.start.0 - small[0].shared.start.0,
            4 * PAGE_SIZE
        );
        let windows = small[1999].slot.shared.end().0 - SHARED_START.0;
        assert_eq!(windows.div_ceil(WINDOW_SIZE), 16);
        let large = book.reserve(&request("large@1", 32, 1)).unwrap();
        assert_eq!(large.shared.start.0, SHARED_START.0 + 16 * WINDOW_SIZE);
        let next = book.reserve(&request("next@1", 20, 1)).unwrap();
        assert_eq!(next.slot.shared.start, small[1999].slot.shared.end());
        assert_eq!(next.slot.shared.pages, PageCount(28));
    }

    #[test]
    fn text_is_as_aligned_as_it_asks_to_be() {
        let mut book = AddressBook::default();
        book.reserve(&request("a@1", 1, 1)).unwrap();
        let aligned = |version: &str, alignment| ReservationRequest {
            shared_alignment: alignment,
            ..request(version, 1, 1)
        };
        let other = book.reserve(&aligned("b@1", 1 << 16)).unwrap();
        assert_eq!(other.shared.start.0, SHARED_START.0 + (1 << 16));
        let moved = book.reserve(&aligned("b@2", 1 << 20)).unwrap();
        assert_eq!(moved.shared.start.0, SHARED_START.0 + (1 << 20));
        for alignment in [0, 1, 2048, 12288, 2 * WINDOW_SIZE, u64::MAX] {
            let refused = book.reserve(&aligned("c@1", alignment));
            assert!(
                matches!(refused, Err(ReserveError::Alignment { .. })),
                "{alignment}"
            );
        }
    }

    #[test]
    fn thread_local_blocks_are_disjoint_and_aligned() {
        let mut book = AddressBook::default();
        let with_tls = |name: &str, size, alignment| ReservationRequest {
            tls_size: size,
            tls_alignment: alignment,
            ..request(name, 1, 1)
        };
        let a = book.reserve(&with_tls("a@1", 20, 8)).unwrap();
        let b = book.reserve(&with_tls("b@1", 100, 64)).unwrap();
        assert_eq!(
            a.tls,
            TlsBlock {
                offset: 24,
                size: 20
            }
        );
        assert_eq!(
            b.tls,
            TlsBlock {
                offset: 128,
                size: 100
            }
        );
        for (size, alignment) in [(TLS_CAPACITY, 1), (u64::MAX, 8), (8, 3), (8, 8192), (8, 0)] {
            let refused = book.reserve(&with_tls("c@1", size, alignment));
            assert!(
                matches!(refused, Err(ReserveError::Tls { .. })),
                "{size} {alignment}"
            );
        }
    }
}
