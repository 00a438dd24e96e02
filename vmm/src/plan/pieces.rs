//! From ranges and extents to pieces: runs of pages that no 2 MiB boundary crosses.

use pool_core::address::Protection;
use pool_core::description::{Range, RangeKind};
use pool_core::image_map::ImageMap;
use pool_core::{Extent, GuestAddress, PAGE_SIZE, WINDOW_SIZE};

use super::{Content, Mapping, Sharing};

/// A piece before its window is judged.
struct Piece {
    mapping: Mapping,
    /// Lies in a dense extent.
    dense: bool,
}

/// All pieces of `map`, sorted by address, physical addresses still unset. A window that can be
/// mapped whole is one piece of 2 MiB. `written` are runs of pages, sorted, each one or more whole ranges.
pub(super) fn of(map: &ImageMap, written: &[(u64, u64)]) -> Vec<Mapping> {
    let mut pieces = Vec::new();
    for range in &map.description.ranges {
        let address = range.address.0;
        let next = written.partition_point(|(start, _)| *start <= address);
        let is_written = next > 0 && address < written[next - 1].1;
        split_range(map, range, is_written, &mut pieces);
    }
    let mut result = Vec::with_capacity(pieces.len());
    for in_window in
        pieces.chunk_by(|a, b| a.mapping.address.window() == b.mapping.address.window())
    {
        match whole_window(in_window) {
            Some(window) => result.push(window),
            None => result.extend(in_window.iter().map(|piece| piece.mapping)),
        }
    }
    result
}

fn split_range(map: &ImageMap, range: &Range, is_written: bool, pieces: &mut Vec<Piece>) {
    let first = first_source_page(range);
    let end = first + range.length / PAGE_SIZE;
    let address_of = |page: u64| range.address.0 + (page - first) * PAGE_SIZE;
    let mut emit = |from: u64, to: u64, extent: Option<Extent>| {
        let (start, end) = (address_of(from), address_of(to));
        let mut at = start;
        while at < end {
            let next = end.min(GuestAddress(at).window().0 + WINDOW_SIZE);
            let content = extent.map_or(Content::Zero, |extent| Content::Segment {
                segment: extent.segment,
                offset: extent.slot.byte_offset() + (at - start),
            });
            pieces.push(Piece {
                mapping: Mapping {
                    address: GuestAddress(at),
                    physical: 0,
                    length: next - at,
                    content,
                    sharing: sharing(range),
                    protection: range.protection,
                    windows: false,
                    written: is_written,
                },
                dense: extent.is_some_and(|extent| extent.dense),
            });
            at = next;
        }
    };
    let object = range
        .source
        .and_then(|source| map.objects.get(&source.object));
    let mut page = first;
    for extent in object.iter().flat_map(|o| o.slice(first, end - first)) {
        emit(page, extent.file_page, None);
        emit(extent.file_page, extent.end_page(), Some(extent));
        page = extent.end_page();
    }
    emit(page, end, None);
}

fn first_source_page(range: &Range) -> u64 {
    range.source.map_or(0, |source| source.offset / PAGE_SIZE)
}

fn sharing(range: &Range) -> Sharing {
    match range.kind {
        RangeKind::Shared => Sharing::Shared,
        RangeKind::Private | RangeKind::Zero => Sharing::Private,
    }
}

/// The one mapping that serves a whole window, if all its pieces are shared and their stored
/// pages lie dense in one window of one segment, each at its own position. The rest of such a
/// segment window reads as zeros, and so do the zero pages of the pieces.
fn whole_window(pieces: &[Piece]) -> Option<Mapping> {
    let window = pieces.first()?.mapping.address.window();
    let mut origin = None;
    let mut protection = Protection::READ;
    for Piece { mapping, dense } in pieces {
        if mapping.sharing != Sharing::Shared {
            return None;
        }
        protection.execute |= mapping.protection.execute;
        let Content::Segment { segment, offset } = mapping.content else {
            continue;
        };
        let start = offset.checked_sub(mapping.address.0 - window.0)?;
        let congruent = start.is_multiple_of(WINDOW_SIZE);
        if !dense || !congruent || origin.is_some_and(|o| o != (segment, start)) {
            return None;
        }
        origin = Some((segment, start));
    }
    let (segment, offset) = origin?;
    Some(Mapping {
        address: window,
        physical: 0,
        length: WINDOW_SIZE,
        content: Content::Segment { segment, offset },
        sharing: Sharing::Shared,
        protection,
        windows: true,
        written: false,
    })
}
