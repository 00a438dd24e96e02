//! The words every part of the pool shares.
//!
//! Nothing here touches a file, a socket or a device: these are the types that cross crate
//! borders, with their checks and their textual forms. The store, the linker, the API, the
//! filesystem and the VMM agree on a page, a digest, an extent, a name, a description and a
//! registered address by using this crate, so that none of them needs to know another.

pub mod address;
pub mod description;
pub mod digest;
pub mod extent;
pub mod image_map;
pub mod name;
pub mod page;
pub mod registry;
pub mod slide;
mod text;

pub use address::GuestAddress;
pub use digest::{ObjectId, PageId};
pub use extent::{Extent, ExtentMap, SegmentId, Slot};
pub use name::{ImageRef, LibraryRef, Name, Referent};
pub use page::{PAGE_SIZE, PAGES_PER_WINDOW, PageCount, WINDOW_SIZE};
