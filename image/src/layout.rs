//! The layout that `pool link` leaves in the executables it writes.
//!
//! It says where each library version lies, which no ELF header can. It is kept in a section that
//! is not loaded, so that the executable alone is enough for `pool push` or `curl -T`.

use pool_core::name::LibraryRef;
use pool_core::page::PageCount;
use pool_core::registry::AddressRange;
use serde::{Deserialize, Serialize};

/// Name of the section (type `SHT_PROGBITS`, not `SHF_ALLOC`) that holds the layout as JSON.
pub const LAYOUT_SECTION: &str = ".pool.layout";
/// Name of the section (of the same kind) that holds what the pages of libraries that an image has of its own
/// are in other images: [`PlacedLibrary::own`], one after the other.
pub const ELSEWHERE_SECTION: &str = ".pool.elsewhere";
/// Name of the section (of the same kind) that holds the record of addresses by which the image slides
/// ([`pool_core::slide`]); it is there unless [`LinkLayout::fixed`] says why not.
pub const SLIDE_SECTION: &str = ".pool.slide";
/// Newest version of the textual form; a reader refuses any later one. The first one knows no pages of an
/// image's own, and is still written where there are none.
pub const LAYOUT_FORMAT: u32 = 2;

/// The version that says what there is to say of `libraries`.
pub(crate) fn format_of(libraries: &[PlacedLibrary]) -> u32 {
    if libraries.iter().any(|placed| !placed.own.is_empty()) {
        LAYOUT_FORMAT
    } else {
        1
    }
}

/// How a program and its libraries are laid out. One resolution serves all: they differ in where things lie and in how
/// they are reached, not in what the program is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutKind {
    /// As ld's own: what the program needs of its archives lies with its objects, in the order in which it was taken. No
    /// library is apart.
    Default,
    /// The same without the sections that nothing needs: dead code elimination (`--gc-sections`).
    Dce,
    /// Each library whole, on pages of its own at a fixed address that its version keeps, referred to directly: Spacer (Gain,
    /// Soldani, Huici, Mathy: "Want More Unikernels? Inflate Them!", SoCC 2022). Which pages are the same in two images
    /// depends on all that they refer to.
    Spacer,
    /// Each library whole at its registered address, and what it refers to outside of itself through slots.
    #[default]
    Pool,
}

impl LayoutKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Default, Self::Dce, Self::Spacer, Self::Pool];

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Dce => "dce",
            Self::Spacer => "spacer",
            Self::Pool => "pool",
        }
    }

    /// Libraries lie apart from the application.
    #[must_use]
    pub fn has_libraries(self) -> bool {
        matches!(self, Self::Spacer | Self::Pool)
    }

    /// Libraries are versions of the pool, of which other images have the same pages.
    #[must_use]
    pub fn is_pool(&self) -> bool {
        *self == Self::Pool
    }
}

/// Where a link placed its libraries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkLayout {
    /// At most [`LAYOUT_FORMAT`].
    pub format: u32,
    /// How the image is laid out; only that of the pool has `libraries`.
    #[serde(default, skip_serializing_if = "LayoutKind::is_pool")]
    pub kind: LayoutKind,
    /// The libraries, in link order.
    pub libraries: Vec<PlacedLibrary>,
    /// Why the image can only run where it is linked; nothing if it can start elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
}

/// A library version at its registered address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedLibrary {
    /// Name and version.
    pub library: LibraryRef,
    /// Its text and rodata: whole pages, identical in every image that uses the version but for `own`.
    pub shared: AddressRange,
    /// Its data, bss and the tables that the image fills in.
    pub private: AddressRange,
    /// The earlier version that it keeps places of: what both have is where that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps: Option<LibraryRef>,
    /// Pages of `shared`, counted from its start, that this image has of its own, in order: the program means
    /// something else there than other programs do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<PageCount>,
    /// What the program means otherwise there, those with most pages first; no more than [`MOST_REASONS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<Reason>,
}

/// Most reasons that are told of one library.
pub const MOST_REASONS: usize = 32;

/// A symbol that the program means otherwise than a library, and pages of that library that refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// As the symbol table has it.
    pub symbol: String,
    /// How many pages.
    pub pages: PageCount,
}
