//! What a library version asks for, and what it was given.

use serde::{Deserialize, Serialize};

use super::TLS_CAPACITY;
use super::places::Places;
use crate::address::{GuestAddress, USER_ADDRESS_END};
use crate::digest::ObjectId;
use crate::name::LibraryRef;
use crate::page::{PAGE_SIZE, PageCount};

/// A run of pages in the address space. One that is read lies where programs have addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "AnyRange")]
pub struct AddressRange {
    /// First byte, a multiple of the page size.
    pub start: GuestAddress,
    /// Pages; may be zero.
    pub pages: PageCount,
}

/// What is written where a range is to be.
#[derive(Deserialize)]
struct AnyRange {
    start: GuestAddress,
    pages: PageCount,
}

impl TryFrom<AnyRange> for AddressRange {
    type Error = String;

    fn try_from(range: AnyRange) -> Result<Self, String> {
        let AnyRange { start, pages } = range;
        let bytes = pages.checked_bytes();
        let end = bytes.and_then(|bytes| start.0.checked_add(bytes));
        if start.0.is_multiple_of(PAGE_SIZE) && end.is_some_and(|end| end <= USER_ADDRESS_END) {
            Ok(Self { start, pages })
        } else {
            Err(format!(
                "{pages} pages at {start} are no pages of a program"
            ))
        }
    }
}

impl AddressRange {
    /// First address past the range.
    pub fn end(&self) -> GuestAddress {
        GuestAddress(self.start.0 + self.pages.bytes())
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
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
    /// For a version without thread-local storage that keeps nobody's places, aligned to pages.
    pub fn new(
        library: LibraryRef,
        identity: ObjectId,
        shared_pages: PageCount,
        private_pages: PageCount,
    ) -> Self {
        Self {
            library,
            identity,
            shared_pages,
            private_pages,
            shared_alignment: page(),
            tls_size: 0,
            tls_alignment: one(),
            dependencies: Vec::new(),
            keeps: None,
            places: None,
        }
    }

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
    /// Digest of the record of its places, if it keeps an earlier version's: what whoever links it must have followed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub follows: Option<ObjectId>,
}

/// Room held for all versions of one library. That for thread-local storage, if it is read, lies where libraries have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "AnySlot")]
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

/// What is written where a slot is to be.
#[derive(Deserialize)]
struct AnySlot {
    shared: AddressRange,
    private: AddressRange,
    tls_offset: u64,
    tls_size: u64,
}

impl TryFrom<AnySlot> for AddressSlot {
    type Error = String;

    fn try_from(slot: AnySlot) -> Result<Self, String> {
        let AnySlot {
            shared,
            private,
            tls_offset,
            tls_size,
        } = slot;
        if tls_size > tls_offset || tls_offset > TLS_CAPACITY {
            return Err(format!(
                "{tls_size} bytes of thread-local storage at {tls_offset} do not fit into the {TLS_CAPACITY} that there are"
            ));
        }
        Ok(Self {
            shared,
            private,
            tls_offset,
            tls_size,
        })
    }
}

/// Of a field that may be left out: what is there is no null.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
