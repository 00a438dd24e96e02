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
//! outgrows a part of its library's slots (shared, private, thread-local) gets new room for that part alone.
//!
//! Windows are for what can be mapped whole. A library of a few pages, which is stored page by page anyway, lies in
//! a window with others: so there is room for 640 large ones and for thousands of small ones, and a guest that uses
//! several needs fewer page tables.

mod book;
mod error;
mod places;
mod reservation;

use crate::address::GuestAddress;
use crate::page::PageCount;

pub use book::AddressBook;
pub use error::ReserveError;
pub use places::{Known, MAX_PLACES, Places};
pub use reservation::{AddressRange, AddressSlot, Reservation, ReservationRequest, TlsBlock};

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
