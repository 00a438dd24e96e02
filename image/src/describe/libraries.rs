//! Checking a layout section against the segments: a layout that lies is refused.

use pool_core::address::USER_ADDRESS_END;
use pool_core::description::MAX_RANGES;
use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;
use pool_core::registry::AddressRange;
use pool_core::{GuestAddress, PageCount};
use serde::Deserialize;
use thiserror::Error;

use super::load::Run;
use crate::layout::{LAYOUT_FORMAT, LinkLayout};

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
    #[error("the .pool.layout section has format {0}, not {LAYOUT_FORMAT}: update this program")]
    Format(u32),
    /// More libraries than an image can have ranges.
    #[error("the .pool.layout section lists {0} libraries, the limit is {MAX_RANGES}")]
    TooMany(usize),
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
pub(super) struct Claim {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) part: Part,
    pub(super) library: LibraryRef,
    /// Position in link order.
    pub(super) order: usize,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Reads a layout section and gives its claims, sorted by address and disjoint.
pub(super) fn read_claims(section: &[u8]) -> Result<Vec<Claim>, LayoutError> {
    // The version comes first: another version may have another shape.
    let Version { format } = serde_json::from_slice(section)?;
    if format != LAYOUT_FORMAT {
        return Err(LayoutError::Format(format));
    }
    let layout: LinkLayout = serde_json::from_slice(section)?;
    if layout.libraries.len() > MAX_RANGES {
        return Err(LayoutError::TooMany(layout.libraries.len()));
    }
    let mut names: Vec<_> = layout.libraries.iter().map(|l| &l.library).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(LayoutError::Twice(pair[0].clone()));
    }
    let mut claims = Vec::new();
    for (order, placed) in layout.libraries.into_iter().enumerate() {
        let parts = [
            (Part::Shared, placed.shared),
            (Part::Private, placed.private),
        ];
        for (part, range) in parts {
            if range.pages.0 > 0 {
                claims.push(claim(&placed.library, part, range, order)?);
            }
        }
    }
    claims.sort_unstable_by_key(|claim| claim.start);
    if let Some(pair) = claims.windows(2).find(|pair| pair[1].start < pair[0].end) {
        return Err(LayoutError::Overlap {
            first: pair[0].library.clone(),
            second: pair[1].library.clone(),
        });
    }
    Ok(claims)
}

fn claim(
    library: &LibraryRef,
    part: Part,
    range: AddressRange,
    order: usize,
) -> Result<Claim, LayoutError> {
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
        }),
        None => Err(LayoutError::Addresses {
            library: library.clone(),
            start: range.start,
            pages: range.pages,
        }),
    }
}

/// Cuts runs at the borders of claims, so that each run lies in one claim or in none.
pub(super) fn cut<'a>(runs: Vec<Run<'a>>, claims: &[Claim]) -> Vec<Run<'a>> {
    let mut borders = claims.iter().flat_map(|c| [c.start, c.end]).peekable();
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
pub(super) fn claim_of<'c>(claims: &'c [Claim], run: &Run<'_>) -> Option<&'c Claim> {
    let next = claims.partition_point(|claim| claim.start <= run.address);
    claims[..next]
        .last()
        .filter(|claim| run.address < claim.end)
}

/// Checks that every page of each shared claim is a read-only page with bytes.
pub(super) fn check_shared(claims: &[Claim], runs: &[Run<'_>]) -> Result<(), LayoutError> {
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
