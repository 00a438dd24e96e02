//! The description of an image: what lies at which guest address, and where its bytes come from.
//!
//! This is the seeds' `.desc` file. Theirs is a list of `{name, address, size}`; this one also
//! names the content of each range by digest, its protection, the entry point, the guest ABI and
//! the layout mode, so that a loader needs nothing else and can check everything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::{GuestAddress, Protection, USER_ADDRESS_END};
use crate::digest::ObjectId;
use crate::name::LibraryRef;
use crate::page::{PAGE_SIZE, PAGES_PER_WINDOW};

/// Version of the textual form; a reader refuses any other.
pub const DESCRIPTION_FORMAT: u32 = 1;
/// Most ranges that a description may have; each can cost a mapping.
pub const MAX_RANGES: usize = 16_384;

/// How the guest speaks to whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Abi {
    /// Linux system calls of a static x86-64 executable.
    Linux,
    /// A kernel with a PVH entry point.
    Pvh,
    /// A kernel for a Multiboot loader, of version 1 or 2.
    Multiboot,
    /// A kernel that is entered in 64-bit mode with Linux's boot parameters.
    Lxboot,
}

impl Abi {
    /// Its name in a description.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
            Self::Lxboot => "lxboot",
        }
    }

    /// What people call it.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Linux => "Linux program",
            Self::Pvh => "PVH",
            Self::Multiboot => "Multiboot",
            Self::Lxboot => "Linux 64-bit boot",
        }
    }
}

/// How the addresses of an image came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Linked by `pool link`: each library at its registered address.
    Registered,
    /// Anything else: the image is its own library.
    Own,
}

/// What a range holds and who may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RangeKind {
    /// Text and read-only data: shared by all, read-only in hardware.
    Shared,
    /// Initialised data: shared until written, then private page by page.
    Private,
    /// Zeros at the start: bss.
    Zero,
}

/// The bytes of a range: `length` bytes of `object` from byte `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The object.
    pub object: ObjectId,
    /// Byte offset in it, a multiple of the page size.
    pub offset: u64,
}

/// A run of pages in the guest's address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First byte, a multiple of the page size.
    pub address: GuestAddress,
    /// Bytes, a multiple of the page size, not zero.
    pub length: u64,
    /// What the guest may do there.
    pub protection: Protection,
    /// What it holds.
    pub kind: RangeKind,
    /// Where the bytes come from; absent for [`RangeKind::Zero`] alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The library that the range belongs to; absent for the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<LibraryRef>,
}

impl Range {
    /// First address past the range. Cannot overflow in a validated description.
    pub fn end(&self) -> GuestAddress {
        GuestAddress(self.address.0 + self.length)
    }
}

/// A library version that an image was linked against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryUse {
    /// Name and version.
    pub library: LibraryRef,
    /// Its content: text and rodata, identical in every image that uses it.
    pub object: ObjectId,
    /// Its registered address.
    pub address: GuestAddress,
}

/// The file that a description was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Digest of the whole file.
    pub digest: ObjectId,
    /// Its length in bytes.
    pub length: u64,
}

/// Where the program headers lie in the guest (for `AT_PHDR`; libc finds its TLS image there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramHeaders {
    /// Address of the first.
    pub address: GuestAddress,
    /// How many.
    pub count: u16,
}

/// Whether an image can start at other addresses than those that it was linked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Slide {
    /// It can, by what an object says ([`crate::slide`]).
    Record {
        /// The object.
        object: ObjectId,
        /// Its length in bytes.
        length: u64,
    },
    /// It can't.
    Fixed {
        /// Why not, in words.
        why: String,
    },
}

/// What lies where in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`DESCRIPTION_FORMAT`].
    pub format: u32,
    /// The file described.
    pub image: FileIdentity,
    /// The guest's ABI.
    pub abi: Abi,
    /// How its addresses came about.
    pub layout: Layout,
    /// The load bias already added to every address: zero for a fixed-position executable, the
    /// chosen base for a static position-independent one (`AT_BASE` stays zero for both).
    pub load_bias: u64,
    /// Address of the first instruction.
    pub entry: GuestAddress,
    /// Program headers, where a segment holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_headers: Option<ProgramHeaders>,
    /// The program asks for a stack that it may execute: its `PT_GNU_STACK` is executable, as
    /// that of nested functions in C (`load_elf_binary` in the kernel's `fs/binfmt_elf.c`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable_stack: bool,
    /// Whether it can start elsewhere. Nothing is said of what `pool link` has not linked, or an earlier one: it
    /// can't, unless it relocates itself ([`Self::load_bias`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slide: Option<Slide>,
    /// Library versions used, in link order.
    #[serde(default)]
    pub libraries: Vec<LibraryUse>,
    /// The address map, sorted, without overlap.
    pub ranges: Vec<Range>,
}

/// Why a description is refused.
#[derive(Debug, Error)]
pub enum DescriptionError {
    /// Not JSON, or not of this shape.
    #[error("not a description: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer form.
    #[error("format {0} is not {DESCRIPTION_FORMAT}: update this program")]
    Format(u32),
    /// Nothing to map.
    #[error("it has no ranges")]
    NoRanges,
    /// More than [`MAX_RANGES`].
    #[error("it has {0} ranges, the limit is {MAX_RANGES}")]
    TooManyRanges(usize),
    /// A range is empty or not made of whole pages.
    #[error("range {0} at {1} is not made of whole pages")]
    NotPages(usize, GuestAddress),
    /// A range ends beyond user addresses.
    #[error("range {0} at {1} reaches past the end of user addresses")]
    PastEnd(usize, GuestAddress),
    /// Ranges overlap or are unsorted.
    #[error("range {0} at {1} begins before its predecessor ends")]
    Overlap(usize, GuestAddress),
    /// A range is shared and writable, or has or lacks a source against its kind.
    #[error("range {0} at {1} has a protection or a source that does not fit its kind")]
    Kind(usize, GuestAddress),
    /// The entry point is not in an executable range.
    #[error("the entry point {0} is in no executable range")]
    Entry(GuestAddress),
    /// No range has content of a library where its address says. (Not all need have: an image may have pages of
    /// its own among a library's.)
    #[error("library {0} is listed, but no range holds its content at its address")]
    Library(LibraryRef),
}

impl Description {
    /// Reads a description and checks it.
    pub fn from_json(json: &[u8]) -> Result<Self, DescriptionError> {
        let description: Self = serde_json::from_slice(json)?;
        description.validate()?;
        Ok(description)
    }

    /// The canonical JSON: what is stored, hashed and served.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a description has only string keys");
        json.push(b'\n');
        json
    }

    /// Checks what every reader relies on: sorted disjoint page ranges below the end of user
    /// addresses, nothing both shared and writable, an entry point that can be executed.
    pub fn validate(&self) -> Result<(), DescriptionError> {
        if self.format != DESCRIPTION_FORMAT {
            return Err(DescriptionError::Format(self.format));
        }
        if self.ranges.is_empty() {
            return Err(DescriptionError::NoRanges);
        }
        if self.ranges.len() > MAX_RANGES {
            return Err(DescriptionError::TooManyRanges(self.ranges.len()));
        }
        let mut end = GuestAddress(0);
        for (at, range) in self.ranges.iter().enumerate() {
            end = check_range(at, range, end)?;
        }
        let executable = |range: &Range| {
            range.protection.execute && (range.address..range.end()).contains(&self.entry)
        };
        if !self.ranges.iter().any(executable) {
            return Err(DescriptionError::Entry(self.entry));
        }
        for used in &self.libraries {
            let holds = |range: &Range| {
                let source = range.source.filter(|source| source.object == used.object);
                let place = source.and_then(|source| used.address.checked_add(source.offset));
                place == Some(range.address) && range.kind == RangeKind::Shared
            };
            if !self.ranges.iter().any(holds) {
                return Err(DescriptionError::Library(used.library.clone()));
            }
        }
        Ok(())
    }

    /// The objects that ranges refer to, each with the position in its 2 MiB window (0 to 511)
    /// at which its first page is mapped, and the record by which it slides.
    pub fn objects(&self) -> BTreeMap<ObjectId, u64> {
        let mut objects = BTreeMap::new();
        for range in &self.ranges {
            if let Some(source) = range.source {
                let first = range.address.0.wrapping_sub(source.offset) / PAGE_SIZE;
                objects
                    .entry(source.object)
                    .or_insert(first % PAGES_PER_WINDOW);
            }
        }
        if let Some(Slide::Record { object, .. }) = self.slide {
            objects.entry(object).or_insert(0);
        }
        objects
    }
}

fn check_range(
    at: usize,
    range: &Range,
    previous_end: GuestAddress,
) -> Result<GuestAddress, DescriptionError> {
    let address = range.address;
    let offset = range.source.map_or(0, |source| source.offset);
    let whole = [address.0, range.length, offset]
        .iter()
        .all(|v| v.is_multiple_of(PAGE_SIZE));
    if !whole || range.length == 0 {
        return Err(DescriptionError::NotPages(at, address));
    }
    let end = address
        .checked_add(range.length)
        .filter(|end| end.0 <= USER_ADDRESS_END)
        .ok_or(DescriptionError::PastEnd(at, address))?;
    if address < previous_end {
        return Err(DescriptionError::Overlap(at, address));
    }
    let fits = match range.kind {
        RangeKind::Shared => range.source.is_some() && !range.protection.write,
        RangeKind::Private => range.source.is_some(),
        RangeKind::Zero => range.source.is_none(),
    };
    if fits {
        Ok(end)
    } else {
        Err(DescriptionError::Kind(at, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Description {
        let text = Range {
            address: GuestAddress(0x40_1000),
            length: 0x2000,
            protection: Protection::READ_EXECUTE,
            kind: RangeKind::Shared,
            source: Some(Source {
                object: ObjectId::of(b"text"),
                offset: 0,
            }),
            library: None,
        };
        let bss = Range {
            address: GuestAddress(0x40_3000),
            length: 0x1000,
            protection: Protection::READ_WRITE,
            kind: RangeKind::Zero,
            source: None,
            library: None,
        };
        Description {
            format: DESCRIPTION_FORMAT,
            image: FileIdentity {
                digest: ObjectId::of(b"elf"),
                length: 9000,
            },
            abi: Abi::Linux,
            layout: Layout::Own,
            load_bias: 0,
            entry: GuestAddress(0x40_1010),
            program_headers: None,
            executable_stack: false,
            slide: None,
            libraries: vec![],
            ranges: vec![text, bss],
        }
    }

    #[test]
    fn abis_are_named_as_they_are_written() {
        for abi in [Abi::Linux, Abi::Pvh, Abi::Multiboot, Abi::Lxboot] {
            assert_eq!(serde_json::to_value(abi).unwrap(), abi.name());
        }
    }

    #[test]
    fn round_trips_as_json() {
        let description = sample();
        assert_eq!(
            Description::from_json(&description.to_json()).unwrap(),
            description
        );
        assert_eq!(description.objects().into_values().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn wrong_descriptions_are_refused() {
        type Case = (&'static str, fn(&mut Description));
        let cases: [Case; 11] = [
            ("format", |d| d.format = 2),
            ("no ranges", |d| d.ranges.clear()),
            ("unaligned address", |d| d.ranges[0].address.0 += 1),
            ("empty range", |d| d.ranges[0].length = 0),
            ("overflow", |d| d.ranges[1].length = !0xfff),
            ("kernel half", |d| d.ranges[1].address.0 = 1 << 47),
            ("overlap", |d| d.ranges[0].length = 0x3000),
            ("shared and writable", |d| {
                d.ranges[0].protection.write = true;
            }),
            ("zero with source", |d| {
                d.ranges[1].source = d.ranges[0].source;
            }),
            ("entry in bss", |d| d.entry = GuestAddress(0x40_3000)),
            ("library nowhere", |d| {
                d.libraries.push(LibraryUse {
                    library: "z@1".parse().unwrap(),
                    object: ObjectId::of(b"z"),
                    address: GuestAddress(0x1000_0000),
                });
            }),
        ];
        for (what, spoil) in cases {
            let mut description = sample();
            spoil(&mut description);
            assert!(description.validate().is_err(), "{what}");
        }
    }
}
