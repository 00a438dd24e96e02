//! Places that outlive a version of a library.
//!
//! A plan puts the sections of a library one after the other, so a function that grows moves all that follow, and with
//! them every reference to any of them. A version that is linked where an earlier one is on record keeps what that had
//! instead: whatever both have stays at its offset, so a page that holds nothing new, and refers to nothing that had to
//! move, is the same page.
//!
//! - [`record`]: what is on record of a version: of everything that has a place of its own where it is, how large, and two
//!   digests to tell it by.
//! - [`arrange`]: gives the things of a version their offsets, after those of a record: an earlier version's, or the version's
//!   own. Pure, and without a notion of what the things are. An earlier version's record decides how good the outcome is and never
//!   whether it is right: whatever it says, no two things overlap, and all are aligned. The version's own is followed to the
//!   letter, or not at all.
//! - [`rooms`]: what is taken, and what is free.
//!
//! `plan::keep` makes things of a plan, and gives a plan other offsets.

pub(super) mod arrange;
pub(super) mod record;
mod rooms;

/// What offsets count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Space {
    /// The library's shared pages.
    Shared,
    /// Its bound sections.
    Bound,
    /// Its writable data, with which the offset table begins.
    Data,
    /// Its thread-local block.
    Thread,
}

impl Space {
    pub(super) const ALL: [Self; 4] = [Self::Shared, Self::Bound, Self::Data, Self::Thread];
}

/// What lies together in a space, in this order when nothing is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Class {
    Code,
    /// Whatever is in the file and is no code.
    Stored,
    /// Constants that hold addresses: on no page with code.
    Held,
    Zero,
}

/// Something that has a place of its own: a section, a string, an entry of the offset table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) space: Space,
    pub(super) class: Class,
    /// Digest of what it is called.
    pub(super) name: u32,
    /// Digest of what it is: its bytes and what it refers to.
    pub(super) identity: u32,
    pub(super) size: u64,
    /// A power of two.
    pub(super) alignment: u64,
    /// Where it is when nothing is on record.
    pub(super) offset: u64,
    /// It is code that is called at its start, so that a jump to it can stand where it was.
    pub(super) is_called: bool,
    /// It is small and made anew for each version, so that it goes out of the way of what grew.
    pub(super) yields: bool,
}

impl Thing {
    /// A jump at `offset`.
    fn jump(offset: u64) -> Self {
        Self {
            space: Space::Shared,
            class: Class::Code,
            name: 0,
            identity: 0,
            size: arrange::JUMP_SIZE,
            alignment: 1,
            offset,
            is_called: false,
            yields: false,
        }
    }
}
