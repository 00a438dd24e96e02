//! Call frame information: the table by which an unwinder finds the frame of an address.
//!
//! Frames stay in the sections in which the compiler put them, so a library's are part of its
//! shared pages. The table (`.eh_frame_hdr`) has one line for each frame of the image and so
//! belongs to the image. Sources: Linux Standard Base Core 5.0, chapter 10.6; DWARF 5, 6.4.

use std::collections::HashMap;

use super::object::{Relocation, Section};

/// Bytes of a table with `entries` lines; none without lines.
pub(super) fn table_size(entries: u64) -> u64 {
    if entries == 0 { 0 } else { 12 + 8 * entries }
}

/// A record of an `.eh_frame` section.
enum Record<'b> {
    /// Common information: its offset and body.
    Common(usize, &'b [u8]),
    /// A frame: its offset, the offset of its common information, its body and where that is.
    Frame(usize, usize, &'b [u8], usize),
}

/// The records up to the terminator, the end, or the first that makes no sense.
fn records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let length = word(bytes, start)? as usize;
        // Zero ends the list; a 64-bit length does not occur in what fits into 2 GiB.
        if length < 4 || length == u32::MAX as usize {
            return None;
        }
        let end = start.checked_add(4)?.checked_add(length)?;
        let pointer = word(bytes, start + 4)? as usize;
        let body = bytes.get(start + 8..end)?;
        at = end;
        if pointer == 0 {
            return Some(Record::Common(start, body));
        }
        let common = (start + 4).checked_sub(pointer)?;
        Some(Record::Frame(start, common, body, start + 8))
    })
}

/// Frames in an `.eh_frame` section, relocated or not.
pub(super) fn count_frames(bytes: &[u8]) -> u64 {
    records(bytes)
        .filter(|record| matches!(record, Record::Frame(..)))
        .count() as u64
}

/// Of each frame, the symbol of its function, and those that it refers to beside that. Frames that make no sense have
/// none.
pub(super) fn needs(section: &Section<'_>) -> Vec<(usize, Vec<usize>)> {
    // Compilers write relocations in their order.
    let within = |start: usize, end: usize| {
        let before = |offset: usize| move |r: &Relocation| r.offset < offset as u64;
        let from = section.relocations.partition_point(before(start));
        let all = &section.relocations[from..];
        &all[..all.partition_point(before(end))]
    };
    let mut needs = Vec::new();
    let mut commons: HashMap<usize, &[Relocation]> = HashMap::new();
    for record in records(section.bytes) {
        match record {
            Record::Common(start, body) => {
                commons.insert(start, within(start, start + 8 + body.len()));
            }
            Record::Frame(_, common, body, at) => {
                if let Some((function, others)) = within(at, at + body.len()).split_first() {
                    let about = commons.get(&common).copied().unwrap_or_default();
                    let others = others.iter().chain(about).map(|r| r.symbol);
                    needs.push((function.symbol, others.collect()));
                }
            }
        }
    }
    needs
}

/// Where the functions of a relocated `.eh_frame` section at `address` begin, and where their
/// frames are. Functions that are not in the image (their address is zero) are left out.
pub(super) fn frames(bytes: &[u8], address: u64) -> Vec<(u64, u64)> {
    let mut encodings: Vec<(usize, Option<u8>)> = Vec::new();
    let mut frames = Vec::new();
    for record in records(bytes) {
        match record {
            Record::Common(start, body) => encodings.push((start, pointer_encoding(body))),
            Record::Frame(start, common, body, at) => {
                let encoding = encodings.iter().rev().find(|(start, _)| *start == common);
                let function = encoding
                    .and_then(|(_, encoding)| *encoding)
                    .and_then(|encoding| pointer(encoding, body, address + at as u64));
                frames.extend(function.map(|function| (function, address + start as u64)));
            }
        }
    }
    frames
}

/// The table at `address` for `frames`, of which `first` begins where an `.eh_frame` does.
pub(super) fn table(address: u64, first: u64, frames: &[(u64, u64)]) -> Option<Vec<u8>> {
    let relative = |to: u64, from: u64| i32::try_from(to as i64 - from as i64).ok();
    let mut sorted = frames.to_vec();
    sorted.sort_unstable();
    sorted.dedup_by_key(|(function, _)| *function);
    // Version 1; the pointer to .eh_frame relative to itself, the count as a 32-bit number, and
    // the lines relative to the table's start, all 32 bits.
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b];
    bytes.extend(relative(first, address + 4)?.to_le_bytes());
    bytes.extend(u32::try_from(sorted.len()).ok()?.to_le_bytes());
    for (function, frame) in sorted {
        bytes.extend(relative(function, address)?.to_le_bytes());
        bytes.extend(relative(frame, address)?.to_le_bytes());
    }
    Some(bytes)
}

/// How frames of this common information write their function's address.
fn pointer_encoding(body: &[u8]) -> Option<u8> {
    let text_end = body.iter().skip(1).position(|b| *b == 0)? + 1;
    let augmentation = &body[1..text_end];
    let mut rest = &body[text_end + 1..];
    if augmentation.is_empty() {
        return Some(0);
    }
    if augmentation.first() != Some(&b'z') {
        return None;
    }
    skip_leb(&mut rest)?; // code alignment
    skip_leb(&mut rest)?; // data alignment
    skip_leb(&mut rest)?; // return address register
    skip_leb(&mut rest)?; // length of what follows
    for letter in &augmentation[1..] {
        match letter {
            b'R' => return rest.first().copied(),
            b'L' => rest = rest.get(1..)?,
            b'P' => {
                let size = size_of_encoding(*rest.first()?)?;
                rest = rest.get(1 + size..)?;
            }
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    Some(0)
}

fn skip_leb(rest: &mut &[u8]) -> Option<()> {
    let length = rest.iter().position(|b| b & 0x80 == 0)? + 1;
    *rest = rest.get(length..)?;
    Some(())
}

fn size_of_encoding(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

/// The address that the start of `body`, which is at `place`, stands for.
fn pointer(encoding: u8, body: &[u8], place: u64) -> Option<u64> {
    let raw = match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => u64::from_le_bytes(body.get(..8)?.try_into().ok()?),
        0x03 => u64::from(word(body, 0)?),
        0x0b => i64::from(word(body, 0)? as i32) as u64,
        _ => return None,
    };
    if raw == 0 {
        return None;
    }
    match encoding & 0x70 {
        0x00 => Some(raw),
        0x10 => Some(place.wrapping_add(raw)),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}
