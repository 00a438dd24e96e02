//! Why a registry reserves nothing.

use thiserror::Error;

use super::MAX_TLS_ALIGNMENT;
use crate::address::GuestAddress;
use crate::digest::ObjectId;
use crate::name::LibraryRef;
use crate::page::{PAGE_SIZE, PageCount, WINDOW_SIZE};

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
    /// The version exists with the same contents and other sizes.
    #[error(
        "{library} is registered with the same members and other sizes: another linker laid it out; link it with that one, \
         or choose another version name"
    )]
    Layout {
        /// The version.
        library: LibraryRef,
    },
    /// It cannot keep places of that version.
    #[error(
        "{library} cannot keep the places of {version}: that must be another version of the same library, which is \
         registered, and the record of its own places must be with it"
    )]
    Keeps {
        /// The version.
        library: LibraryRef,
        /// The one whose places it would keep.
        version: LibraryRef,
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
