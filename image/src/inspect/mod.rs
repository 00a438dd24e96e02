//! A report on an executable, for people (`Display`) and programs (`Serialize`).

pub mod against;
pub mod picture;
mod slide;
mod table;
mod windows;

use std::collections::{BTreeMap, HashSet};

use pool_core::address::Protection;
use pool_core::description::{Abi, Layout, ProgramHeaders, Range, RangeKind};
use pool_core::name::LibraryRef;
use pool_core::page::{PAGE_SIZE, is_zero};
use pool_core::{GuestAddress, ObjectId, PageCount, PageId};
use serde::Serialize;

use crate::describe::{DescribedImage, KeptPlaces, ObjectRole, OwnPages};
use crate::elf::ExecutableKind;
use crate::layout::LayoutKind;
use crate::minify::minify;

pub use slide::{SlideReport, WrittenPages};
pub use windows::WindowReport;

/// What there is to know about an executable before it is pushed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Digest of the file.
    pub digest: ObjectId,
    /// Its length in bytes.
    pub length: u64,
    /// Its length when minified.
    pub minified_length: u64,
    /// How it was linked.
    pub kind: ExecutableKind,
    /// True without a symbol table.
    pub stripped: bool,
    /// How it speaks to whoever runs it.
    pub abi: Abi,
    /// How its addresses came about.
    pub layout: Layout,
    /// What `pool link` was asked for, if that linked it.
    pub linked_as: Option<LayoutKind>,
    /// First instruction.
    pub entry: GuestAddress,
    /// What was added to the addresses in the file.
    pub load_bias: u64,
    /// Program headers in memory.
    pub program_headers: Option<ProgramHeaders>,
    /// The address map.
    pub ranges: Vec<RangeReport>,
    /// Pages of memory by kind.
    pub pages: PageReport,
    /// Pages of each library version.
    pub libraries: Vec<LibraryReport>,
    /// Pages of libraries that differ in this image, and why.
    pub own: Vec<OwnPages>,
    /// Libraries that keep places of an earlier version.
    pub keeping: Vec<KeptPlaces>,
    /// 2 MiB windows of memory.
    pub windows: WindowReport,
    /// Whether it can start elsewhere.
    pub slide: SlideReport,
}

/// A range of memory.
#[derive(Clone, Debug, Serialize)]
pub struct RangeReport {
    /// First byte.
    pub address: GuestAddress,
    /// Bytes.
    pub length: u64,
    /// Access.
    pub protection: Protection,
    /// What it holds.
    pub kind: RangeKind,
    /// The object that its bytes come from.
    pub object: Option<ObjectId>,
    /// The library that it belongs to.
    pub library: Option<LibraryRef>,
}

/// Pages of memory. `total` is `shared` + `private` + `bss`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PageReport {
    /// All pages.
    pub total: PageCount,
    /// Read-only, shared by all instances.
    pub shared: PageCount,
    /// Initialised and writable: shared until written.
    pub private: PageCount,
    /// Zeros at the start, nowhere stored.
    pub bss: PageCount,
    /// Shared and private pages that hold zeros alone: not stored.
    pub zero: PageCount,
    /// Different contents among the shared and private pages that are not zeros: what a pool
    /// that knows none of them stores.
    pub distinct: PageCount,
}

/// A library version in an image.
#[derive(Clone, Debug, Serialize)]
pub struct LibraryReport {
    /// Name and version.
    pub library: LibraryRef,
    /// Its registered address.
    pub address: GuestAddress,
    /// Its content.
    pub object: ObjectId,
    /// Shared pages.
    pub shared: PageCount,
    /// Those of them that hold zeros alone.
    pub zero: PageCount,
    /// Initialised writable pages.
    pub private: PageCount,
    /// Pages of zeros at the start.
    pub bss: PageCount,
}

/// Reports on a described executable.
pub fn inspect(image: &DescribedImage<'_>) -> Report {
    let description = &image.description;
    let contents = page_contents(image);
    let ranges = description
        .ranges
        .iter()
        .map(|range| RangeReport {
            address: range.address,
            length: range.length,
            protection: range.protection,
            kind: range.kind,
            object: range.source.map(|source| source.object),
            library: range.library.clone(),
        })
        .collect();
    Report {
        digest: description.image.digest,
        length: description.image.length,
        minified_length: minify(image).len() as u64,
        kind: image.kind,
        stripped: image.stripped,
        abi: description.abi,
        layout: description.layout,
        linked_as: image.linked_as,
        entry: description.entry,
        load_bias: description.load_bias,
        program_headers: description.program_headers,
        ranges,
        pages: count_pages(image, &contents),
        libraries: count_libraries(image, &contents),
        own: image.own.clone(),
        keeping: image.keeping.clone(),
        windows: windows::count(description),
        slide: slide::report(image),
    }
}

/// For each object but the file, its pages' digests; `None` is the zero page.
type PageContents = BTreeMap<ObjectId, Vec<Option<PageId>>>;

fn page_contents(image: &DescribedImage<'_>) -> PageContents {
    image
        .objects
        .iter()
        .filter(|object| object.role != ObjectRole::File)
        .map(|object| {
            let digest = |page| (!is_zero(page)).then(|| PageId::of(page));
            (object.id, object.content.pages().map(digest).collect())
        })
        .collect()
}

/// The pages of a range, if it has some.
fn pages_of<'c>(range: &Range, contents: &'c PageContents) -> &'c [Option<PageId>] {
    let Some(source) = range.source else {
        return &[];
    };
    let first = (source.offset / PAGE_SIZE) as usize;
    let count = PageCount::covering(range.length).0 as usize;
    &contents[&source.object][first..first + count]
}

fn count_pages(image: &DescribedImage<'_>, contents: &PageContents) -> PageReport {
    let mut report = PageReport::default();
    let mut distinct = HashSet::new();
    for range in &image.description.ranges {
        let count = PageCount::covering(range.length);
        report.total += count;
        match range.kind {
            RangeKind::Shared => report.shared += count,
            RangeKind::Private => report.private += count,
            RangeKind::Zero => report.bss += count,
        }
        for page in pages_of(range, contents) {
            match page {
                Some(id) => {
                    distinct.insert(id);
                }
                None => report.zero += PageCount(1),
            }
        }
    }
    report.distinct = PageCount(distinct.len() as u64);
    report
}

fn count_libraries(image: &DescribedImage<'_>, contents: &PageContents) -> Vec<LibraryReport> {
    let ranges = &image.description.ranges;
    let libraries = image.description.libraries.iter().map(|used| {
        let count = |kind| {
            let bytes = ranges
                .iter()
                .filter(|r| r.kind == kind && r.library.as_ref() == Some(&used.library))
                .map(|r| r.length)
                .sum();
            PageCount::covering(bytes)
        };
        let zero = contents[&used.object].iter().filter(|p| p.is_none());
        LibraryReport {
            library: used.library.clone(),
            address: used.address,
            object: used.object,
            shared: count(RangeKind::Shared),
            zero: PageCount(zero.count() as u64),
            private: count(RangeKind::Private),
            bss: count(RangeKind::Zero),
        }
    });
    libraries.collect()
}
