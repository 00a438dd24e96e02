//! Collection of what nothing refers to, and checks of what is kept.
//!
//! [`collect`] runs through the modules in order: [`mark`] finds out what is live, [`sweep`] takes
//! the rest out of the index, [`compact`] empties mostly dead segments. Disk is given back before,
//! between and after these steps, so that a nearly full one lets a collection go on. The
//! store checks each proposal again (`pool_store::collection`). [`mod@fsck`] compares everything with
//! everything and changes nothing; [`mod@scrub`] reads everything, a part at a time; [`mod@why`] tells what keeps a thing.
//!
//! # How data could be lost, and why it is not
//!
//! - *An upload finds "page already there" and commits after the page was taken.* Every removal happens in batches under
//!   the writer's lock. A commit is decided under the same lock, and looks its pages up again if a batch came since it did.
//!   The page is either gone, and asked for again, or found, and then in the barrier, which
//!   every removal asks.
//! - *A thing moves from one root to another while roots are listed.* The barrier stands before
//!   the first root is read, so a root that a commit creates later protects what it refers to.
//!   Names that change without a commit (a further tag) refer to manifests that exist throughout.
//! - *A lease is taken between mark and removal.* Removal asks again under the lock, and a second
//!   time after it: a holder looks the thing up again once it holds the lease, so either it is
//!   seen or it sees that the thing is gone. What is leased when it is to be removed is protected
//!   with all its pages.
//! - *A holder maps a segment whose last object went.* Segments are leased too. They are retired
//!   first and unlinked only while nobody leases them; an unlinked file lives while it is mapped.
//! - *An object follows to where its damaged pages are whole.* That is a look-up and a batch under the writer's lock, and
//!   what it comes to refer to is in the barrier, as with a commit.
//! - *A stop between two batches.* Names go first, then objects, then pages and windows, then
//!   segments; each batch is durable before the next begins. What is left over is garbage of the
//!   next collection, never a reference to something gone.
//! - *Something in the index cannot be read.* The first error ends the collection. All marking
//!   comes before the first removal of an object, so nothing is removed on the ground of a partial
//!   mark. Only what was retired before is unlinked nevertheless: nothing refers to it.
//! - *A segment cannot be read, or its copy not be written.* It stays as it is and is named in the
//!   report; the others go on without it. What was copied of it is taken back.
//! - *A mark that is wrong.* No segment is retired before a scan of the index has found no
//!   reference to it.

mod collect;
pub mod compact;
pub mod fsck;
pub mod history;
pub mod mark;
pub mod scrub;
pub mod sweep;
pub mod why;

pub use collect::{CollectOptions, CollectReport, collect, collect_watched};
pub use fsck::{Finding, FsckLevel, FsckReport, fsck};
pub use history::{Cause, Collected, History};
pub use scrub::{Scrubbed, scrub};
pub use why::{Keepers, Thing, Why, why, why_at};

use pool_store::StoreError;
use thiserror::Error;

/// Why a collection or a check did not run to its end.
#[derive(Debug, Error)]
pub enum GcError {
    /// The store refused or could not be read. Nothing was removed that is referred to.
    #[error("{doing}: {source}")]
    Store {
        /// The step, as in "marking".
        doing: &'static str,
        /// What the store said.
        source: StoreError,
    },
    /// The index contradicts itself, so nothing can be told to be garbage.
    #[error("{0}: nothing was collected; run pool fsck to see all damage")]
    Inconsistent(String),
    /// An option is out of range.
    #[error("the live ratio to compact below is {0}; it must be between 0 and 1")]
    BadRatio(f64),
}

/// A result whose error is a [`GcError`].
pub type Result<T> = std::result::Result<T, GcError>;

/// Says in which step the store failed.
fn during<T>(doing: &'static str, result: pool_store::Result<T>) -> Result<T> {
    result.map_err(|source| GcError::Store { doing, source })
}
