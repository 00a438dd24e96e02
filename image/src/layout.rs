//! The layout that `pool link` leaves in the executables it writes.
//!
//! It says where each library version lies, which no ELF header can. It is kept in a section that
//! is not loaded, so that the executable alone is enough for `pool push` or `curl -T`.

use pool_core::name::LibraryRef;
use pool_core::registry::AddressRange;
use serde::{Deserialize, Serialize};

/// Name of the section (type `SHT_PROGBITS`, not `SHF_ALLOC`) that holds the layout as JSON.
pub const LAYOUT_SECTION: &str = ".pool.layout";
/// Version of the textual form; a reader refuses any other.
pub const LAYOUT_FORMAT: u32 = 1;

/// Where a link placed its libraries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkLayout {
    /// [`LAYOUT_FORMAT`].
    pub format: u32,
    /// The libraries, in link order.
    pub libraries: Vec<PlacedLibrary>,
}

/// A library version at its registered address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedLibrary {
    /// Name and version.
    pub library: LibraryRef,
    /// Its text and rodata: whole pages, identical in every image that uses the version.
    pub shared: AddressRange,
    /// Its data, bss and the tables that the image fills in.
    pub private: AddressRange,
}
