//! Frames for a library's stubs and detours, so that an unwinder that finds one of them at work (a fault there that is
//! thrown from, a signal, a thread that is ended) gets to the function that it is part of.
//!
//! A stub, and a detour that jumps through a pointer, stand where the function they lead to will begin. Any other detour
//! is to the unwinder a function that the instruction behind the rewritten one is returned to: all registers are as
//! there, but for one that is saved on the stack. Where that instruction is follows from where control is in the detour, since an
//! image that starts elsewhere has the same frames. Sources as for [`super::eh_frame`].

use iced_x86::{Decoder, DecoderOptions};

use super::slots::{Detour, Saved};

/// The record of what all frames have in common: addresses relative to their place, in 32 bits; at the start, the return
/// address is on top of the stack.
const COMMON: [u8; 24] = [
    20, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, DEFINE, STACK, 8, 0x90, 1, 0,
    0,
];
/// `DW_CFA_def_cfa`, `DW_CFA_def_cfa_offset`, `DW_CFA_val_expression`.
const DEFINE: u8 = 0x0c;
const OFFSET: u8 = 0x0e;
const IS_EXPRESSION: u8 = 0x16;
/// `DW_OP_breg16`: a number and what is in the register of that number, here where control is.
const FROM_HERE: u8 = 0x80;
/// `DW_CFA_advance_loc`, `DW_CFA_offset`, `DW_CFA_restore`, with an operand in their low bits.
const ADVANCE: u8 = 0x40;
const SAVED: u8 = 0x80;
const RESTORE: u8 = 0xc0;
/// DWARF's numbers of registers.
const STACK: u8 = 7;
const RETURN: u8 = 16;
/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// Code that has a frame.
pub(super) struct Framed<'d> {
    pub(super) start: u64,
    pub(super) size: u64,
    /// The detour, and the address of the instruction behind the one that takes it.
    pub(super) returns: Option<(&'d Detour, u64)>,
}

/// Bytes of the frames of `detours` and of so many runs of stubs.
pub(super) fn size<'d>(runs: usize, detours: impl Iterator<Item = &'d Detour>) -> u64 {
    let stubs = (0..runs).map(|_| record(&[]).len());
    let detours = detours.map(|detour| match detour.back {
        Some(_) => record(&instructions(detour, 0)).len(),
        None => record(&[]).len(),
    });
    match stubs.chain(detours).sum::<usize>() {
        0 => 0,
        size => (COMMON.len() + size) as u64,
    }
}

/// The frames of `all`, at `address`.
pub(super) fn write<'d>(address: u64, all: impl Iterator<Item = Framed<'d>>) -> Vec<u8> {
    let mut bytes = COMMON.to_vec();
    for framed in all {
        let at = bytes.len();
        let instructions = framed.returns.map_or_else(Vec::new, |(detour, next)| {
            instructions(detour, next.wrapping_sub(framed.start) as i64)
        });
        bytes.extend(record(&instructions));
        let mut set = |offset: usize, value: u64| {
            let field = at + offset;
            // All addresses are below 2 GiB.
            bytes[field..field + 4].copy_from_slice(&(value as u32).to_le_bytes());
        };
        set(4, at as u64 + 4);
        set(8, framed.start.wrapping_sub(address + at as u64 + 8));
        set(12, framed.size);
    }
    bytes
}

/// A record with `instructions`; what depends on its place is zero.
fn record(instructions: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 17];
    record.extend(instructions);
    record.resize(record.len().next_multiple_of(ALIGNMENT), 0);
    let length = record.len() as u32 - 4;
    record[..4].copy_from_slice(&length.to_le_bytes());
    record
}

/// How to get from a detour to what is before it on the stack, and to the instruction that is so far from the detour's start.
fn instructions(detour: &Detour, next: i64) -> Vec<u8> {
    let mut code = vec![OFFSET, 0];
    let mut last = 0;
    let decoder = Decoder::with_ip(64, &detour.code, 0, DecoderOptions::NONE);
    for instruction in decoder {
        // There are some fifty bytes at most.
        let at = instruction.ip() as u8;
        if at > 0 {
            code.push(ADVANCE | (at - last));
        }
        last = at;
        if let Some(saved) = detour.saved {
            code.extend(stack(saved, at));
        }
        let distance = leb(next - i64::from(at));
        code.extend([IS_EXPRESSION, RETURN, 1 + distance.len() as u8, FROM_HERE]);
        code.extend(distance);
    }
    code
}

/// What has changed of the stack at the instruction at `at`.
fn stack(saved: Saved, at: u8) -> Vec<u8> {
    let [down, pushed, popped, up] = saved.steps;
    match at {
        _ if at == down => vec![OFFSET, 0x80, 1],
        _ if at == pushed => vec![OFFSET, 0x88, 1, SAVED | saved.register, 17],
        _ if at == popped => vec![OFFSET, 0x80, 1, RESTORE | saved.register],
        _ if at == up => vec![OFFSET, 0],
        _ => Vec::new(),
    }
}

/// A number as signed LEB128, always of as many bytes: all of 32 bits have room.
fn leb(number: i64) -> [u8; 5] {
    let bits = |at: usize| (number >> (7 * at)) as u8 & 0x7f;
    [
        bits(0) | 0x80,
        bits(1) | 0x80,
        bits(2) | 0x80,
        bits(3) | 0x80,
        bits(4),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mov slot(%rip), %rdi; mov (%rdi), %rdi; jmp`
    fn loads() -> Detour {
        let code = [
            &[0x48, 0x8b, 0x3d, 0, 0, 0, 0][..],
            &[0x48, 0x8b, 0x3f],
            &[0xe9, 0, 0, 0, 0],
        ];
        Detour {
            code: code.concat(),
            slot_at: 3,
            back: Some((11, 0)),
            saved: None,
        }
    }

    #[test]
    fn each_instruction_says_how_far_the_return_is() {
        let code = instructions(&loads(), -300);
        let mut expected = vec![OFFSET, 0];
        for (advance, at) in [(0, 0), (7, 7), (3, 10)] {
            if advance > 0 {
                expected.push(ADVANCE | advance);
            }
            expected.extend([IS_EXPRESSION, RETURN, 6, FROM_HERE]);
            expected.extend(leb(-300 - at));
        }
        assert_eq!(code, expected);
        assert_eq!(leb(-1), [0xff, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(leb(0x7fff_ffff), [0xff, 0xff, 0xff, 0xff, 0x07]);
        assert_eq!(leb(-0x8000_0000), [0x80, 0x80, 0x80, 0x80, 0x78]);
    }

    /// An image that starts elsewhere shares the page that they are on.
    #[test]
    fn frames_are_the_same_wherever_all_lies() {
        let saved = Some(Saved {
            register: 2,
            steps: [5, 6, 20, 28],
        });
        // lea; push; mov slot(%rip); add %eax, 8(%rcx); pop; lea; jmp
        let code = [
            &[0x48, 0x8d, 0x64, 0x24, 0x80, 0x51][..],
            &[0x48, 0x8b, 0x0d, 0, 0, 0, 0],
            &[0x01, 0x81, 8, 0, 0, 0, 0x59],
            &[0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0],
            &[0xe9, 0, 0, 0, 0],
        ]
        .concat();
        let saves = Detour {
            back: Some((code.len() - 4, 0)),
            code,
            slot_at: 9,
            saved,
        };
        let loads = loads();
        let detours = [&loads, &saves];
        let written = |moved: u64| {
            let framed = detours.iter().map(|detour| Framed {
                start: 0x10_0000 + moved,
                size: detour.code.len() as u64,
                returns: Some((detour, 0x8_0000 + moved)),
            });
            let frames = write(0x20_0000 + moved, framed);
            assert_eq!(frames.len() as u64, size(0, detours.into_iter()));
            frames
        };
        assert_eq!(written(0), written(0x7f12_3456_7000));
    }
}
