//! Call frame information: the table by which an unwinder finds the frame of an address.
//!
//! Frames stay in the sections in which the compiler put them, so a library's are part of its
//! shared pages. The table (`.eh_frame_hdr`) has one line for each frame of the image and so
//! belongs to the image. Sources: Linux Standard Base Core 5.0, chapter 10.6; DWARF 5, 6.4.

use std::cmp::Reverse;

use super::hash::HashMap;
use super::object::{Relocation, Section};

/// Bytes of a table with `entries` lines; none without lines.
pub(super) fn table_size(entries: u64) -> u64 {
    if entries == 0 { 0 } else { 12 + 8 * entries }
}

/// A record of an `.eh_frame` section.
pub(super) enum Record<'b> {
    /// Common information: its offset and body.
    Common(usize, &'b [u8]),
    /// A frame: its offset, the offset of its common information, its body and where that is.
    Frame(usize, usize, &'b [u8], usize),
}

/// The records up to the terminator, the end, or the first that makes no sense.
pub(super) fn records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
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
    let mut commons: HashMap<usize, &[Relocation]> = HashMap::default();
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

/// A frame of a relocated `.eh_frame` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame {
    /// Where the function begins.
    function: u64,
    /// Bytes of the function.
    size: u64,
    /// Where the frame is.
    at: u64,
}

/// The frames of a relocated `.eh_frame` section at `address`. Functions that are not in the image (their address
/// is zero) are left out.
pub(super) fn frames(bytes: &[u8], address: u64) -> Vec<Frame> {
    let mut encodings: HashMap<usize, Option<u8>> = HashMap::default();
    let mut frames = Vec::new();
    for record in records(bytes) {
        match record {
            Record::Common(start, body) => {
                let encoding = Common::parse(body).map(|common| common.encoding);
                encodings.insert(start, encoding);
            }
            Record::Frame(start, common, body, at) => {
                let encoding = encodings.get(&common).copied().flatten();
                let function =
                    encoding.and_then(|encoding| function(encoding, body, address + at as u64));
                frames.extend(function.map(|(function, size)| Frame {
                    function,
                    size,
                    at: address + start as u64,
                }));
            }
        }
    }
    frames
}

/// The table at `address` for `frames`, of which `first` begins where an `.eh_frame` does.
pub(super) fn table(address: u64, first: u64, frames: &[Frame]) -> Option<Vec<u8>> {
    let relative = |to: u64, from: u64| i32::try_from(to as i64 - from as i64).ok();
    // Compilers leave frames of functions that they emptied: such a one must not stand before that of the function
    // which begins at the same address.
    let mut sorted = frames.to_vec();
    sorted.sort_unstable_by_key(|frame| (frame.function, Reverse(frame.size), frame.at));
    sorted.dedup_by_key(|frame| frame.function);
    // Version 1; the pointer to .eh_frame relative to itself, the count as a 32-bit number, and
    // the lines relative to the table's start, all 32 bits.
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b];
    bytes.extend(relative(first, address + 4)?.to_le_bytes());
    bytes.extend(u32::try_from(sorted.len()).ok()?.to_le_bytes());
    for frame in sorted {
        bytes.extend(relative(frame.function, address)?.to_le_bytes());
        bytes.extend(relative(frame.at, address)?.to_le_bytes());
    }
    Some(bytes)
}

/// What common information says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common<'b> {
    pub(super) version: u8,
    /// The alignments of code and data, and the return address's register, as they are written.
    pub(super) factors: &'b [u8],
    /// How its frames write their function's address.
    pub(super) encoding: u8,
    /// Its frames have further data, which begin with their length.
    pub(super) has_data: bool,
    /// Its frames are those of signal handlers' callers.
    pub(super) is_signal: bool,
    pub(super) instructions: &'b [u8],
}

impl<'b> Common<'b> {
    pub(super) fn parse(body: &'b [u8]) -> Option<Self> {
        let version = *body.first()?;
        let text_end = body.iter().skip(1).position(|b| *b == 0)? + 1;
        let augmentation = &body[1..text_end];
        let mut rest = &body[text_end + 1..];
        let begin = rest;
        skip_leb(&mut rest)?; // code alignment
        skip_leb(&mut rest)?; // data alignment
        if version == 1 {
            rest = rest.get(1..)?; // return address register
        } else {
            skip_leb(&mut rest)?;
        }
        let mut common = Self {
            version,
            factors: &begin[..begin.len() - rest.len()],
            encoding: 0,
            has_data: false,
            is_signal: false,
            instructions: rest,
        };
        if augmentation.is_empty() {
            return Some(common);
        }
        if augmentation.first() != Some(&b'z') {
            return None;
        }
        common.has_data = true;
        let length = usize::try_from(leb(&mut rest)?).ok()?;
        common.instructions = rest.get(length..)?;
        for letter in &augmentation[1..] {
            match letter {
                b'R' => {
                    common.encoding = *rest.first()?;
                    rest = rest.get(1..)?;
                }
                b'L' => rest = rest.get(1..)?,
                b'P' => {
                    let size = size_of_encoding(*rest.first()?)?;
                    rest = rest.get(1 + size..)?;
                }
                b'S' => common.is_signal = true,
                b'B' => {}
                _ => return None,
            }
        }
        Some(common)
    }
}

/// Takes an unsigned number in base 128.
pub(super) fn leb(rest: &mut &[u8]) -> Option<u64> {
    let whole = *rest;
    skip_leb(rest)?;
    let digits = &whole[..whole.len() - rest.len()];
    let mut value = 0u64;
    for (at, digit) in digits.iter().enumerate() {
        let shift = u32::try_from(7 * at).ok()?;
        value |= u64::from(digit & 0x7f).checked_shl(shift)?;
    }
    Some(value)
}

fn skip_leb(rest: &mut &[u8]) -> Option<()> {
    let length = rest.iter().position(|b| b & 0x80 == 0)? + 1;
    *rest = rest.get(length..)?;
    Some(())
}

pub(super) fn size_of_encoding(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

/// The function that the start of `body`, which is at `place`, stands for: its address and size.
pub(super) fn function(encoding: u8, body: &[u8], place: u64) -> Option<(u64, u64)> {
    let width = size_of_encoding(encoding)?;
    let start = number(encoding, body.get(..width)?)?;
    if start == 0 {
        return None;
    }
    // The size is written as the address is, though relative to nothing and without sign.
    let size = number(encoding & 0x07, body.get(width..2 * width)?)?;
    match encoding & 0x70 {
        0x00 => Some((start, size)),
        0x10 => Some((place.wrapping_add(start), size)),
        _ => None,
    }
}

/// The number in `field`, which has the size that the encoding says.
fn number(encoding: u8, field: &[u8]) -> Option<u64> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(u64::from_le_bytes(field.try_into().ok()?)),
        0x03 => Some(u64::from(word(field, 0)?)),
        0x0b => Some(i64::from(word(field, 0)? as i32) as u64),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section with common information (addresses relative to their place, 32 bits) and a frame for each
    /// function, given by its address and size.
    fn section(address: u64, functions: &[(u64, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(16u32.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(b"\x01zR\0\x01\x78\x10\x01\x1b\0\0\0");
        for (function, size) in functions {
            let start = bytes.len();
            bytes.extend(16u32.to_le_bytes());
            bytes.extend((start as u32 + 4).to_le_bytes());
            let place = address + bytes.len() as u64;
            bytes.extend((function.wrapping_sub(place) as u32).to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn an_emptied_function_does_not_hide_the_one_that_begins_where_it_lay() {
        let bytes = section(
            0x2000,
            &[(0x1000, 0), (0x1000, 0x40), (0x1000, 0), (0x1040, 8)],
        );
        assert_eq!(count_frames(&bytes), 4);
        let frames = frames(&bytes, 0x2000);
        let table = table(0x3000, 0x2000, &frames).unwrap();
        let lines: Vec<(u32, u32)> = table[12..]
            .chunks(8)
            .map(|line| (word(line, 0).unwrap(), word(line, 4).unwrap()))
            .map(|(function, at)| (function.wrapping_add(0x3000), at.wrapping_add(0x3000)))
            .collect();
        // The second frame, 20 bytes behind the first, which is 20 bytes behind the start.
        assert_eq!(lines, [(0x1000, 0x2000 + 40), (0x1040, 0x2000 + 80)]);
    }
}
