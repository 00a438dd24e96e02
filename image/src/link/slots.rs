//! How an instruction that refers to something outside of its library reaches it through a slot in the library's private
//! pages, without a change of its length.
//!
//! - What takes an address (`lea x(%rip), %r`, or `mov $x, %r`) loads it from the slot (`mov slot(%rip), %r`): the reverse
//!   of what linkers make of loads from an offset table.
//! - Whatever else refers to it becomes a jump to a *detour* behind the library's code. It loads the address from
//!   the slot into a register, does the instruction with that register, and jumps back. The register is
//!   the instruction's own result where it has one; else it is one that the instruction does not touch, saved below the red
//!   zone. Flags stay as the instruction leaves them.
//! - A call by a pointer in memory calls a detour that jumps through it, so that what is called sees the
//!   caller's return address. A jump by one stays: within a function (a computed `goto`) no register is free.
//!
//! Pure, and certain or not at all: what has been rewritten is decoded again and compared. Detours have frames for
//! unwinders (`detour_frames`).

mod absolute;

use goblin::elf::reloc as r;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use super::instructions::{Field, Instructions};
use super::object::Relocation;
use super::patch::{Patch, Value, Width};

/// An instruction that is another one, of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    /// Offset in the section.
    pub(super) start: u64,
    /// With room for the field.
    pub(super) bytes: Vec<u8>,
    pub(super) patch: Patch,
    pub(super) detour: Option<Detour>,
    /// It uses the lower 32 bits of the address alone.
    pub(super) is_cut: bool,
}

/// Code that is jumped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Detour {
    pub(super) code: Vec<u8>,
    /// Where in it the distance of the slot goes, which is counted from the field's end.
    pub(super) slot_at: usize,
    /// Where in it the distance of what follows the instruction goes, and that one's offset in the section.
    pub(super) back: Option<(usize, u64)>,
    /// The register that it saves.
    pub(super) saved: Option<Saved>,
}

/// A register that is saved below the red zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    /// DWARF's number.
    pub(super) register: u8,
    /// Bytes of code up to the end of the step down the stack, of the push, of the pop, and of the step up.
    pub(super) steps: [u8; 4],
}

/// What a detour does before it jumps back.
struct Body {
    code: Vec<u8>,
    slot_at: usize,
    saved: Option<Saved>,
}

/// Bytes of a field.
const FIELD: usize = 4;
/// `lea -128(%rsp), %rsp`: past the red zone, without a change of flags.
const DOWN: [u8; 5] = [0x48, 0x8d, 0x64, 0x24, 0x80];
/// `lea 128(%rsp), %rsp`
const UP: [u8; 8] = [0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0];
const JUMP: u8 = 0xe9;
const NOP: u8 = 0x90;
/// The stack pointer's number, which means something else in an instruction's base.
const STACK: usize = 4;
/// What can be saved, and be a base without a prefix.
const SCRATCH: [Register; 7] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::RBX,
    Register::RBP,
];

/// DWARF's numbers of the registers that can be saved, by their own (System V ABI, AMD64 supplement, figure 3.36).
const IN_DWARF: [u8; 8] = [0, 2, 1, 3, 7, 6, 4, 5];

/// The instruction that `relocation` is about, with a slot in place of the target's address. With `addresses` set, only
/// if it takes the address.
pub(super) fn through_slot(
    code: &Instructions<'_>,
    relocation: &Relocation,
    addresses: bool,
) -> Option<Rewritten> {
    let field = code.field(relocation.offset)?;
    let bytes = code.bytes.get(range(&field.instruction))?;
    if field.instruction.segment_prefix() != Register::None {
        return None;
    }
    match relocation.kind {
        r::R_X86_64_PC32 => {}
        r::R_X86_64_32 | r::R_X86_64_32S | r::R_X86_64_64 => {
            return absolute::through_slot(field, bytes, relocation, addresses);
        }
        _ => return None,
    }
    let reference = Reference::new(field, bytes, relocation)?;
    if field.instruction.mnemonic() == Mnemonic::Lea {
        return reference.load();
    }
    if addresses {
        return None;
    }
    match field.instruction.flow_control() {
        FlowControl::IndirectCall => reference.through_pointer(),
        FlowControl::Next => reference.detour(),
        _ => None,
    }
}

fn range(instruction: &Instruction) -> std::ops::Range<usize> {
    instruction.ip() as usize..instruction.next_ip() as usize
}

/// An instruction with an operand at a distance from it.
struct Reference<'b> {
    instruction: &'b Instruction,
    bytes: &'b [u8],
    /// Offset of the operand's distance.
    field: usize,
    /// What is added to the target's address.
    addend: i32,
}

impl<'b> Reference<'b> {
    fn new(field: &'b Field, bytes: &'b [u8], relocation: &Relocation) -> Option<Self> {
        let instruction = &field.instruction;
        let at = field.displacement?;
        let is_plain = instruction.is_ip_rel_memory_operand()
            && instruction.memory_base() == Register::RIP
            && at > 1
            && bytes[at - 1] & 0xc7 == 0x05;
        let behind = (bytes.len() - at) as i64;
        let addend = relocation.addend.checked_add(behind)?;
        is_plain.then_some(Self {
            instruction,
            bytes,
            field: at,
            addend: i32::try_from(addend).ok()?,
        })
    }

    fn rewritten(&self, bytes: Vec<u8>, from_end: usize, value: Value) -> Rewritten {
        rewritten(self.instruction, self.field, bytes, from_end, value)
    }

    /// `lea` to `mov` from the slot.
    fn load(&self) -> Option<Rewritten> {
        let mut bytes = self.bytes.to_vec();
        let opcode = bytes.get_mut(self.field.checked_sub(2)?)?;
        if *opcode != 0x8d || self.field + FIELD != self.bytes.len() {
            return None;
        }
        *opcode = 0x8b;
        let loads = decoded(&bytes, self.instruction.ip());
        let loads_the_same = matches!(loads.code(), Code::Mov_r64_rm64 | Code::Mov_r32_rm32)
            && loads.len() == bytes.len()
            && loads.op0_register() == self.instruction.op0_register();
        let mut rewritten = self.rewritten(bytes, FIELD, Value::EntryDistance);
        rewritten.patch.entry = i64::from(self.addend);
        rewritten.is_cut = loads.code() == Code::Mov_r32_rm32;
        loads_the_same.then_some(rewritten)
    }

    /// `call *x(%rip)` to a call of code that jumps through the pointer. The register is one that linkers may use between
    /// a caller and a function (System V ABI, AMD64 supplement, 3.2.1).
    fn through_pointer(&self) -> Option<Rewritten> {
        // The prefix keeps the length; it changes nothing.
        let bytes = match (self.instruction.code(), self.bytes) {
            (Code::Call_rm64, [0xff, 0x15, ..]) => vec![0x67, 0xe8, 0, 0, 0, 0],
            _ => return None,
        };
        // mov slot(%rip), %r11; jmp *addend(%r11)
        let mut code = vec![0x4c, 0x8b, 0x1d, 0, 0, 0, 0, 0x41, 0xff, 0xa3];
        code.extend(self.addend.to_le_bytes());
        let mut rewritten = self.rewritten(bytes, FIELD, Value::Detour);
        rewritten.detour = Some(Detour {
            code,
            slot_at: 3,
            back: None,
            saved: None,
        });
        Some(rewritten)
    }

    /// Any other instruction to a jump.
    fn detour(&self) -> Option<Rewritten> {
        let used = Used::of(self.instruction);
        if used.touches(Register::RSP) {
            return None;
        }
        let body = if let Some(result) = self.result(&used) {
            let (load, slot_at) = load(result);
            Body {
                code: [load, self.with_base(result)?].concat(),
                slot_at,
                saved: None,
            }
        } else {
            let scratch = used.scratch()?;
            saving(scratch, &[], &self.with_base(scratch)?)
        };
        Some(by_detour(self.instruction, self.field, body, 0))
    }

    /// The register that the instruction overwrites and does not read.
    fn result(&self, used: &Used) -> Option<Register> {
        let instruction = self.instruction;
        if instruction.op0_kind() != OpKind::Register {
            return None;
        }
        let register = instruction.op0_register();
        if !register.is_gpr32() && !register.is_gpr64() {
            return None;
        }
        let full = register.full_register();
        let can_be_base = full.number() % 8 != STACK && self.with_base(full).is_some();
        (used.overwrites(full) && can_be_base).then_some(full)
    }

    /// The instruction with a register as base in place of its own place.
    fn with_base(&self, base: Register) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.to_vec();
        let number = base.number();
        let modrm = &mut bytes[self.field - 1];
        *modrm = *modrm & 0x38 | 0x80 | number as u8 & 7;
        if number > 7 {
            // The last prefix before the opcode says so, if it is one that can.
            let prefixes = bytes.iter().take_while(|byte| is_prefix(**byte)).count();
            let extension = bytes.get_mut(prefixes).filter(|b| **b & 0xf0 == 0x40)?;
            *extension |= 1;
        }
        bytes[self.field..self.field + FIELD].copy_from_slice(&self.addend.to_le_bytes());
        let new = decoded(&bytes, self.instruction.ip());
        let old = self.instruction;
        let is_same = new.code() == old.code()
            && new.len() == old.len()
            && new.memory_base() == base
            && new.memory_index() == Register::None
            && new.memory_displacement64() == i64::from(self.addend) as u64
            && new.segment_prefix() == old.segment_prefix()
            && (0..old.op_count()).all(|at| {
                new.op_kind(at) == old.op_kind(at)
                    && (old.op_kind(at) != OpKind::Register
                        || new.op_register(at) == old.op_register(at))
            });
        is_same.then_some(bytes)
    }
}

/// The instruction as `bytes`, with a field `from_end` bytes before its end. The relocated field was at `at`.
fn rewritten(
    instruction: &Instruction,
    at: usize,
    bytes: Vec<u8>,
    from_end: usize,
    value: Value,
) -> Rewritten {
    Rewritten {
        start: instruction.ip(),
        patch: Patch {
            edits: Vec::new(),
            // It is counted from where the relocation is.
            field: (bytes.len() - from_end) as i64 - at as i64,
            width: Width::Signed(FIELD as u8),
            value,
            addend: -(FIELD as i64),
            entry: 0,
            takes_next: None,
        },
        bytes,
        detour: None,
        is_cut: false,
    }
}

/// The instruction as a jump to `body` and back. The slot holds the target's address and `entry`.
fn by_detour(instruction: &Instruction, at: usize, body: Body, entry: i64) -> Rewritten {
    let mut code = body.code;
    let mut bytes = vec![NOP; instruction.len()];
    bytes[0] = JUMP;
    code.push(JUMP);
    let back = Some((code.len(), instruction.next_ip()));
    code.extend([0; FIELD]);
    let from_end = bytes.len() - 1;
    let mut rewritten = rewritten(instruction, at, bytes, from_end, Value::Detour);
    rewritten.patch.entry = entry;
    rewritten.detour = Some(Detour {
        code,
        slot_at: body.slot_at,
        back,
        saved: body.saved,
    });
    rewritten
}

/// Code that has what is in the slot in a register, which it saves, for `operation`. `before` comes after the load.
fn saving(scratch: Register, before: &[u8], operation: &[u8]) -> Body {
    let number = scratch.number() as u8;
    let (load, slot_at) = load(scratch);
    let mut code = DOWN.to_vec();
    code.push(0x50 + number); // push
    let slot_at = code.len() + slot_at;
    code.extend(load);
    code.extend(before);
    code.extend(operation);
    code.push(0x58 + number); // pop
    let popped = code.len();
    code.extend(UP);
    let (down, up) = (DOWN.len(), code.len());
    let saved = Saved {
        register: IN_DWARF[usize::from(number)],
        // The longest instructions have 15 bytes.
        steps: [down, down + 1, popped, up].map(|end| end as u8),
    };
    Body {
        code,
        slot_at,
        saved: Some(saved),
    }
}

/// `mov slot(%rip), %register`, and where its field is.
fn load(register: Register) -> (Vec<u8>, usize) {
    let number = register.number() as u8;
    let high = if number > 7 { 4 } else { 0 };
    (
        vec![0x48 | high, 0x8b, 0x05 | (number & 7) << 3, 0, 0, 0, 0],
        3,
    )
}

/// Of those that may stand before an instruction that is not encoded by a prefix of several bytes.
fn is_prefix(byte: u8) -> bool {
    matches!(
        byte,
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
    )
}

fn decoded(bytes: &[u8], ip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode()
}

/// What an instruction does with registers.
struct Used(Vec<(Register, OpAccess)>);

impl Used {
    fn of(instruction: &Instruction) -> Self {
        let mut factory = InstructionInfoFactory::new();
        let used = factory.info(instruction).used_registers().iter();
        Self(
            used.map(|used| (used.register().full_register(), used.access()))
                .collect(),
        )
    }

    fn touches(&self, register: Register) -> bool {
        self.0.iter().any(|(used, _)| *used == register)
    }

    /// A register that can be saved and be a base without a prefix.
    fn scratch(&self) -> Option<Register> {
        SCRATCH.into_iter().find(|scratch| !self.touches(*scratch))
    }

    /// It is written in any case, and not read.
    fn overwrites(&self, register: Register) -> bool {
        let mut accesses = self.0.iter().filter(|(used, _)| *used == register);
        self.touches(register) && accesses.all(|(_, access)| *access == OpAccess::Write)
    }
}

#[cfg(test)]
mod tests;
