//! Frames for a library's stubs and detours, so that an unwinder that finds one of them at work (a fault there that is
//! thrown from, a signal, a thread that is ended) gets to the function that it is part of.
//!
//! A stub, and a detour that jumps through a pointer, stand where the function they lead to will begin. Any other detour
//! is to the unwinder a function that the instruction behind the rewritten one is returned to: all registers are as
//! there, but for one that is saved on the stack. Sources as for [`super::eh_frame`].

use super::slots::Detour;

/// The record of what all frames have in common: addresses relative to their place, in 32 bits; at the start, the return
/// address is on top of the stack.
const COMMON: [u8; 24] = [
    20, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, DEFINE, STACK, 8, 0x90, 1, 0,
    0,
];
/// `DW_CFA_def_cfa`, `DW_CFA_def_cfa_offset`, `DW_CFA_val_expression`, `DW_OP_const4u`.
const DEFINE: u8 = 0x0c;
const OFFSET: u8 = 0x0e;
const IS_EXPRESSION: u8 = 0x16;
const NUMBER: u8 = 0x0c;
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
        Some((_, next)) => record(&instructions(detour, next)).len(),
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
        let instructions = framed
            .returns
            .map_or_else(Vec::new, |(detour, next)| instructions(detour, next));
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

/// How to get from a detour to what is before it on the stack, and to `next`.
fn instructions(detour: &Detour, next: u64) -> Vec<u8> {
    let mut code = vec![OFFSET, 0, IS_EXPRESSION, RETURN, 5, NUMBER];
    code.extend((next as u32).to_le_bytes());
    if let Some(saved) = detour.saved {
        let [down, pushed, popped, up] = saved.steps;
        // Behind the step down, the push, the pop and the step up.
        code.extend([ADVANCE | down, OFFSET, 0x80, 1]);
        code.extend([
            ADVANCE | pushed,
            OFFSET,
            0x88,
            1,
            SAVED | saved.register,
            17,
        ]);
        code.extend([ADVANCE | popped, OFFSET, 0x80, 1, RESTORE | saved.register]);
        code.extend([ADVANCE | up, OFFSET, 0]);
    }
    code
}
