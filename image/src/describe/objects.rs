//! Gathering runs of memory into objects, and the ranges that refer to them.

use std::borrow::Cow;

use pool_core::description::{LibraryUse, Range, RangeKind, Source};
use pool_core::name::LibraryRef;
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use pool_core::{GuestAddress, ObjectId};

use super::content::{Content, Piece};
use super::libraries::{Claim, Part, claim_of};
use super::load::{Backing, Run};
use super::{FileSpan, ImageObject, ObjectRole};

/// Most bytes of zeros that fill gaps in the objects of one image. Far more than any linker
/// leaves between segments of one window; a bound on the work that a hostile file can cause.
const GAP_BUDGET: u64 = 32 * WINDOW_SIZE;

/// Everything that an image's memory is made of.
#[derive(Debug, Default)]
pub(super) struct Gathered<'a> {
    pub(super) ranges: Vec<Range>,
    pub(super) objects: Vec<ImageObject<'a>>,
    pub(super) libraries: Vec<LibraryUse>,
    pub(super) spans: Vec<FileSpan>,
}

/// Gathers `runs`, already cut at the borders of `claims`.
pub(super) fn gather<'a>(runs: Vec<Run<'a>>, claims: &[Claim<'a>]) -> Gathered<'a> {
    let mut gathered = Gathered::default();
    let mut used = Vec::new();
    let mut code: Option<Gathering<'a>> = None;
    let mut data: Option<Gathering<'a>> = None;
    let mut library: Option<(usize, Gathering<'a>)> = None;
    let mut own: Option<Gathering<'a>> = None;
    let mut gaps = 0;
    for run in runs {
        let claim = claim_of(claims, &run);
        let name = claim.map(|claim| claim.library.clone());
        if run.is_zero_filled() {
            gathered.ranges.push(range(&run, RangeKind::Zero, name));
        } else if run.protection.write {
            data.get_or_insert_with(|| Gathering::new(&run, ObjectRole::Data))
                .append(run, RangeKind::Private, name);
        } else if let Some(claim) = claim.filter(|claim| claim.part == Part::Shared) {
            if library
                .as_ref()
                .is_some_and(|(order, _)| *order != claim.order)
            {
                used.extend(gathered.finish_library(library.take()));
            }
            let (_, library) = library.get_or_insert_with(|| {
                let role = ObjectRole::Library(claim.library.clone());
                (claim.order, Gathering::new(&run, role))
            });
            match claim.elsewhere(&run) {
                Some(elsewhere) => {
                    library.pass(elsewhere);
                    own.get_or_insert_with(|| Gathering::new(&run, ObjectRole::Code))
                        .append(run, RangeKind::Shared, name);
                }
                None => library.append(run, RangeKind::Shared, name),
            }
        } else {
            let joins = code.as_ref().and_then(|code| code.gap_to(&run));
            match joins.filter(|gap| gaps + gap <= GAP_BUDGET) {
                Some(gap) => gaps += gap,
                None => gathered.finish(code.take()),
            }
            let code = code.get_or_insert_with(|| Gathering::new(&run, ObjectRole::Code));
            code.fill_to(run.address);
            code.append(run, RangeKind::Shared, name);
        }
    }
    used.extend(gathered.finish_library(library));
    gathered.finish(code);
    gathered.finish(own);
    gathered.finish(data);
    used.sort_unstable_by_key(|(order, _)| *order);
    gathered.libraries = used.into_iter().map(|(_, library)| library).collect();
    gathered.ranges.sort_unstable_by_key(|range| range.address);
    gathered.ranges = merge(std::mem::take(&mut gathered.ranges));
    gathered.spans.sort_unstable_by_key(|span| span.file_offset);
    gathered
}

impl<'a> Gathered<'a> {
    fn finish(&mut self, gathering: Option<Gathering<'a>>) {
        let Some(gathering) = gathering else { return };
        let id = gathering.content.digest();
        for (mut range, offset) in gathering.ranges {
            range.source = Some(Source { object: id, offset });
            self.ranges.push(range);
        }
        let object = self.objects.len();
        self.spans.extend(gathering.spans.into_iter().map(
            |(file_offset, length, object_offset)| FileSpan {
                file_offset,
                length,
                object,
                object_offset,
            },
        ));
        self.objects.push(ImageObject {
            id,
            role: gathering.role,
            phase: gathering.start / PAGE_SIZE % PAGES_PER_WINDOW,
            content: gathering.content,
        });
    }

    fn finish_library(
        &mut self,
        library: Option<(usize, Gathering<'a>)>,
    ) -> Option<(usize, LibraryUse)> {
        let (order, gathering) = library?;
        if gathering.ranges.is_empty() {
            // All its pages are the image's own.
            return None;
        }
        let ObjectRole::Library(name) = gathering.role.clone() else {
            return None;
        };
        let address = GuestAddress(gathering.start);
        self.finish(Some(gathering));
        let object = self.objects.last().map(|object| object.id)?;
        let library = LibraryUse {
            library: name,
            object,
            address,
        };
        Some((order, library))
    }
}

/// An object in the making.
#[derive(Debug)]
struct Gathering<'a> {
    role: ObjectRole,
    start: u64,
    /// First address past the last run appended.
    end: u64,
    content: Content<'a>,
    ranges: Vec<(Range, u64)>,
    /// File offset, length and offset in the content of whole file pages.
    spans: Vec<(u64, u64, u64)>,
}

impl<'a> Gathering<'a> {
    fn new(first: &Run<'_>, role: ObjectRole) -> Self {
        Self {
            role,
            start: first.address,
            end: first.address,
            content: Content::default(),
            ranges: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// The bytes of zeros that would join `run` to the object: if it begins in the window in which
    /// the object ends, so that the window can be mapped whole, or right behind the object.
    fn gap_to(&self, run: &Run<'_>) -> Option<u64> {
        let window = |address: u64| address / WINDOW_SIZE;
        let near = run.address == self.end || window(run.address) == window(self.end - 1);
        near.then(|| run.address - self.end)
    }

    fn fill_to(&mut self, address: u64) {
        self.content.push(Piece::Zeros(address - self.end));
        self.end = address;
    }

    /// Goes on with pages that the image has otherwise.
    fn pass(&mut self, pages: &'a [u8]) {
        self.content.push(Piece::Bytes(Cow::Borrowed(pages)));
        self.end += pages.len() as u64;
    }

    fn append(&mut self, run: Run<'a>, kind: RangeKind, library: Option<LibraryRef>) {
        let offset = self.content.len();
        self.ranges.push((range(&run, kind, library), offset));
        if let Backing::File(file_offset, bytes) = &run.backing {
            self.spans.push((*file_offset, bytes.len() as u64, offset));
        }
        self.end = run.end();
        self.content.push(run.into_piece());
    }
}

fn range(run: &Run<'_>, kind: RangeKind, library: Option<LibraryRef>) -> Range {
    Range {
        address: GuestAddress(run.address),
        length: run.length(),
        protection: run.protection,
        kind,
        source: None,
        library,
    }
}

/// Joins neighbours that differ in nothing but where they begin.
fn merge(ranges: Vec<Range>) -> Vec<Range> {
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if continues(last, &range) => last.length += range.length,
            _ => merged.push(range),
        }
    }
    merged
}

fn continues(last: &Range, next: &Range) -> bool {
    let source = last.source.map(|source| Source {
        offset: source.offset + last.length,
        ..source
    });
    last.end() == next.address
        && last.protection == next.protection
        && last.kind == next.kind
        && last.library == next.library
        && source == next.source
}

/// The object that is the whole file.
pub(super) fn file_object(file: &[u8], id: ObjectId) -> ImageObject<'_> {
    ImageObject {
        id,
        role: ObjectRole::File,
        phase: 0,
        content: Content::borrowed(file),
    }
}
