//! Checking a layout section against the segments: a layout that lies is refused.

use pool_core::address::USER_ADDRESS_END;
use pool_core::description::MAX_RANGES;
use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;
use pool_core::registry::AddressRange;
use pool_core::{GuestAddress, PageCount};
use serde::Deserialize;
use thiserror::Error;

use super::KeptPlaces;
use super::load::Run;
use crate::layout::{LAYOUT_FORMAT, LayoutKind, LinkLayout, PlacedLibrary, Reason};

/// Why a layout section is refused. Such a file was changed after `pool link` wrote it: linking
/// again, or removing the section with `objcopy -R .pool.layout`, helps.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// Not JSON, or not of this shape.
    #[error(
        "the .pool.layout section cannot be read ({0}): link again with `pool link`, or remove \
         the section with `objcopy -R .pool.layout`"
    )]
    Json(#[from] serde_json::Error),
    /// A newer form.
    #[error(
        "the .pool.layout section has format {0}, later than {LAYOUT_FORMAT}: update this program"
    )]
    Format(u32),
    /// Pages of the image's own that are none of the library's, or not in order.
    #[error(
        "the .pool.layout section gives the image page {page} of {library}, which has {pages}, or gives \
         pages out of order: link again with `pool link`"
    )]
    Own {
        /// The library.
        library: LibraryRef,
        /// The page.
        page: PageCount,
        /// Shared pages of the library.
        pages: PageCount,
    },
    /// What pages of libraries are in other images is not there, or more than that.
    #[error(
        "the .pool.elsewhere section has {bytes} bytes, and {pages} pages of libraries are the image's \
         own: link again with `pool link`, or remove .pool.layout with `objcopy -R`"
    )]
    Elsewhere {
        /// Bytes that there are.
        bytes: u64,
        /// Pages that there should be.
        pages: PageCount,
    },
    /// More libraries than an image can have ranges.
    #[error("the .pool.layout section lists {0} libraries, the limit is {MAX_RANGES}")]
    TooMany(usize),
    /// Libraries in a layout that has none of the pool's.
    #[error(
        "the .pool.layout section lists libraries, and says that the image is laid out as {0}, which has none: link again \
         with `pool link`"
    )]
    Kind(&'static str),
    /// A version is listed twice.
    #[error("the .pool.layout section lists {0} twice: link again with `pool link`")]
    Twice(LibraryRef),
    /// Addresses that no program can have.
    #[error(
        "the .pool.layout section puts {library} at {start} ({pages} pages), which are not pages \
         of user addresses: link again with `pool link`"
    )]
    Addresses {
        /// The library.
        library: LibraryRef,
        /// First address claimed.
        start: GuestAddress,
        /// Pages claimed.
        pages: PageCount,
    },
    /// Two libraries, or the two parts of one, claim an address.
    #[error(
        "the .pool.layout section gives {second} addresses of {first}: link again with `pool link`"
    )]
    Overlap {
        /// The library that begins lower.
        first: LibraryRef,
        /// The library that begins within it.
        second: LibraryRef,
    },
    /// The library's shared pages are not read-only pages of the file, all of them.
    #[error(
        "the .pool.layout section says that {library} has read-only pages at {address}, but the \
         segments do not: link again with `pool link`, and do not change the file afterwards"
    )]
    NotShared {
        /// The library.
        library: LibraryRef,
        /// First address where the segments differ.
        address: GuestAddress,
    },
}

/// What a part of a library holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Shared,
    Private,
}

/// Addresses that a layout gives to a part of a library.
#[derive(Clone, Debug)]
pub(super) struct Claim<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) part: Part,
    pub(super) library: LibraryRef,
    /// Position in link order.
    pub(super) order: usize,
    /// Addresses of pages that are the image's own, sorted, and what they are in other images.
    pub(super) own: Vec<(u64, &'a [u8])>,
    /// Why.
    pub(super) because: Vec<Reason>,
}

impl<'a> Claim<'a> {
    /// What the pages of `run`, already cut, are in other images, if they are the image's own.
    pub(super) fn elsewhere(&self, run: &Run<'_>) -> Option<&'a [u8]> {
        let found = self.own.binary_search_by_key(&run.address, |(at, _)| *at);
        found.ok().map(|at| self.own[at].1)
    }
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Longest reason why an image can only run where it was linked.
const MAX_REASON: usize = 4096;

/// What a layout section says.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    /// How the image is laid out; nothing without a section.
    pub(super) kind: Option<LayoutKind>,
    /// Sorted by address, and disjoint.
    pub(super) claims: Vec<Claim<'a>>,
    /// Libraries that keep places of an earlier version.
    pub(super) keeping: Vec<KeptPlaces>,
    /// Why the image can only run where it was linked, if that is so.
    pub(super) fixed: Option<String>,
}

/// Reads a layout section, and the one with pages as they are in other images.
pub(super) fn read<'a>(section: &[u8], elsewhere: &'a [u8]) -> Result<Told<'a>, LayoutError> {
    // The version comes first: another version may have another shape.
    let Version { format } = serde_json::from_slice(section)?;
    if !(1..=LAYOUT_FORMAT).contains(&format) {
        return Err(LayoutError::Format(format));
    }
    let layout: LinkLayout = serde_json::from_slice(section)?;
    if layout.libraries.len() > MAX_RANGES {
        return Err(LayoutError::TooMany(layout.libraries.len()));
    }
    if !layout.kind.is_pool() && !layout.libraries.is_empty() {
        return Err(LayoutError::Kind(layout.kind.name()));
    }
    let fixed = layout.fixed.map(|mut why| {
        if why.len() > MAX_REASON {
            why = why.chars().take(MAX_REASON / 4).collect();
        }
        why
    });
    let mut names: Vec<_> = layout.libraries.iter().map(|l| &l.library).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(LayoutError::Twice(pair[0].clone()));
    }
    let own = layout
        .libraries
        .iter()
        .map(|placed| placed.own.len())
        .sum::<usize>();
    if elsewhere.len() != own * PAGE_SIZE as usize {
        return Err(LayoutError::Elsewhere {
            bytes: elsewhere.len() as u64,
            pages: PageCount(own as u64),
        });
    }
    let keeping = layout.libraries.iter().filter_map(|placed| {
        Some(KeptPlaces {
            library: placed.library.clone(),
            of: placed.keeps.clone()?,
        })
    });
    let keeping = keeping.collect();
    let mut elsewhere = elsewhere.chunks_exact(PAGE_SIZE as usize);
    let mut claims = Vec::new();
    for (order, placed) in layout.libraries.into_iter().enumerate() {
        let own = own_pages(&placed, &mut elsewhere)?;
        let parts = [
            (Part::Shared, placed.shared),
            (Part::Private, placed.private),
        ];
        for (part, range) in parts {
            if range.pages.0 > 0 {
                claims.push(claim(&placed.library, part, range, order)?);
            }
        }
        if !own.is_empty()
            && let Some(shared) = claims.iter_mut().rfind(|claim| claim.part == Part::Shared)
        {
            shared.own = own;
            shared.because = placed.because;
        }
    }
    claims.sort_unstable_by_key(|claim| claim.start);
    if let Some(pair) = claims.windows(2).find(|pair| pair[1].start < pair[0].end) {
        return Err(LayoutError::Overlap {
            first: pair[0].library.clone(),
            second: pair[1].library.clone(),
        });
    }
    Ok(Told {
        kind: Some(layout.kind),
        claims,
        keeping,
        fixed,
    })
}

/// The pages that are the image's own: their addresses, and the next of `elsewhere`.
fn own_pages<'a>(
    placed: &PlacedLibrary,
    elsewhere: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<(u64, &'a [u8])>, LayoutError> {
    let shared = placed.shared;
    let mut next = 0;
    let mut pages = Vec::with_capacity(placed.own.len());
    for (page, bytes) in placed.own.iter().zip(elsewhere) {
        if !(next..shared.pages.0).contains(&page.0) {
            return Err(LayoutError::Own {
                library: placed.library.clone(),
                page: *page,
                pages: shared.pages,
            });
        }
        next = page.0 + 1;
        // The range itself is checked with the others.
        let offset = page.checked_bytes().unwrap_or(u64::MAX);
        pages.push((shared.start.0.saturating_add(offset), bytes));
    }
    Ok(pages)
}

fn claim<'a>(
    library: &LibraryRef,
    part: Part,
    range: AddressRange,
    order: usize,
) -> Result<Claim<'a>, LayoutError> {
    let end = range
        .pages
        .checked_bytes()
        .and_then(|bytes| range.start.0.checked_add(bytes))
        .filter(|end| *end <= USER_ADDRESS_END && range.start.0.is_multiple_of(PAGE_SIZE));
    match end {
        Some(end) => Ok(Claim {
            start: range.start.0,
            end,
            part,
            library: library.clone(),
            order,
            own: Vec::new(),
            because: Vec::new(),
        }),
        None => Err(LayoutError::Addresses {
            library: library.clone(),
            start: range.start,
            pages: range.pages,
        }),
    }
}

/// Cuts runs at the borders of claims, so that each run lies in one claim or in none, and at those of
/// pages that are the image's own.
pub(super) fn cut<'a>(runs: Vec<Run<'a>>, claims: &[Claim<'_>]) -> Vec<Run<'a>> {
    let borders = claims.iter().flat_map(|claim| {
        let own = claim.own.iter();
        let own = own.flat_map(|(at, _)| [*at, at + PAGE_SIZE]);
        std::iter::once(claim.start).chain(own).chain([claim.end])
    });
    let mut borders = borders.peekable();
    let mut pieces = Vec::with_capacity(runs.len());
    for mut run in runs {
        while let Some(&border) = borders.peek() {
            if border >= run.end() {
                break;
            }
            if border > run.address {
                let behind = run.split_off(border);
                pieces.push(std::mem::replace(&mut run, behind));
            }
            borders.next();
        }
        pieces.push(run);
    }
    pieces
}

/// The claim that a run, already cut, lies in.
pub(super) fn claim_of<'c, 'a>(claims: &'c [Claim<'a>], run: &Run<'_>) -> Option<&'c Claim<'a>> {
    let next = claims.partition_point(|claim| claim.start <= run.address);
    claims[..next]
        .last()
        .filter(|claim| run.address < claim.end)
}

/// Checks that every page of each shared claim is a read-only page with bytes.
pub(super) fn check_shared(claims: &[Claim<'_>], runs: &[Run<'_>]) -> Result<(), LayoutError> {
    for claim in claims.iter().filter(|claim| claim.part == Part::Shared) {
        let mut covered = claim.start;
        let first = runs.partition_point(|run| run.end() <= claim.start);
        for run in &runs[first..] {
            // Pages of zeros are always writable, so what is not has bytes.
            let fits = run.address == covered && !run.protection.write;
            if covered >= claim.end || !fits {
                break;
            }
            covered = run.end();
        }
        if covered < claim.end {
            return Err(LayoutError::NotShared {
                library: claim.library.clone(),
                address: GuestAddress(covered),
            });
        }
    }
    Ok(())
}
