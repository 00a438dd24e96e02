//! Instructions that hold an address itself: as an immediate operand, or as the displacement of one in memory
//! (`mov $x, %edi`; `cmp $x, %rax`; `mov x(,%rax,8), %rdx`). Code that is not position-independent has them.

use goblin::elf::reloc as r;
use iced_x86::{Code, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::{Body, FIELD, Rewritten, STACK, Used};
use super::{by_detour, decoded, is_prefix, load, rewritten, saving};
use crate::link::instructions::Field;
use crate::link::object::Relocation;
use crate::link::patch::Value;

/// How far down the stack a detour is with a register saved.
const SAVED: i32 = 128 + 8;
/// `nopl (%rax)`
const NOP_OF_THREE: [u8; 3] = [0x0f, 0x1f, 0];

/// See [`super::through_slot`].
pub(super) fn through_slot(
    field: &Field,
    bytes: &[u8],
    relocation: &Relocation,
    addresses: bool,
) -> Option<Rewritten> {
    let at = usize::try_from(relocation.offset - field.instruction.ip()).ok()?;
    let holder = Holder {
        instruction: &field.instruction,
        parts: Parts::of(&field.instruction, bytes)?,
        at,
        addend: relocation.addend,
    };
    if relocation.kind == r::R_X86_64_64 {
        return holder.whole();
    }
    if let Some(loads) = holder.immediate() {
        return Some(loads);
    }
    // A jump through a table would leave the stack and the register as they are in the detour.
    if addresses || field.instruction.flow_control() != FlowControl::Next {
        return None;
    }
    match field.displacement {
        Some(_) => holder.displacement(),
        None => holder.short_immediate().or_else(|| holder.operand()),
    }
}

/// An instruction, taken apart. Only what is encoded without a prefix of several bytes.
struct Parts<'b> {
    /// Prefixes but for the next.
    prefixes: &'b [u8],
    /// The bits of REX; none without that prefix.
    extension: Option<u8>,
    /// Opcode and what follows.
    rest: &'b [u8],
}

impl<'b> Parts<'b> {
    fn of(instruction: &Instruction, bytes: &'b [u8]) -> Option<Self> {
        let count = bytes.iter().take_while(|byte| is_prefix(**byte)).count();
        let (prefixes, rest) = bytes.split_at_checked(count)?;
        let is_plain = instruction.encoding() == EncodingKind::Legacy
            && !prefixes.iter().any(|prefix| matches!(prefix, 0x66 | 0x67));
        let first = *rest.first()?;
        let extension = (first & 0xf0 == 0x40).then_some(first & 0x0f);
        is_plain.then_some(Self {
            prefixes,
            extension,
            rest: if extension.is_some() {
                &rest[1..]
            } else {
                rest
            },
        })
    }

    /// The instruction with `opcode`, `reg` in its field for a register or a part of the opcode, and `operand`.
    fn with(&self, opcode: &[u8], reg: u8, operand: &Operand, tail: &[u8]) -> Vec<u8> {
        let (bytes, bits) = operand.bytes(reg & 7);
        let extension = self.extension.unwrap_or(0) & WIDE | reg >> 3 << 2 | bits;
        let mut all = self.prefixes.to_vec();
        if extension != 0 || self.extension.is_some() {
            all.push(0x40 | extension);
        }
        all.extend(opcode);
        all.extend(bytes);
        all.extend(tail);
        all
    }
}

/// The bit of REX for operands of 64 bits.
const WIDE: u8 = 8;

/// Where an instruction's second operand is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    Register(u8),
    Memory {
        base: Option<u8>,
        index: Option<u8>,
        /// The logarithm of what the index is multiplied by.
        scale: u8,
        displacement: i32,
    },
}

impl Operand {
    /// The bytes with `reg` in the other field, and the bits of REX.
    fn bytes(self, reg: u8) -> (Vec<u8>, u8) {
        match self {
            Self::Register(number) => (vec![0xc0 | reg << 3 | number & 7], number >> 3),
            Self::Memory {
                base,
                index,
                scale,
                displacement,
            } => {
                // Always with a displacement of 32 bits; without a base that is the only one.
                let form = if base.is_some() { 0x80 } else { 0 };
                let (b, i) = (base.unwrap_or(5), index.unwrap_or(STACK as u8));
                let mut bytes = vec![
                    form | reg << 3 | STACK as u8,
                    scale << 6 | (i & 7) << 3 | b & 7,
                ];
                bytes.extend(displacement.to_le_bytes());
                (bytes, i >> 3 << 1 | b >> 3)
            }
        }
    }

    fn of_memory(instruction: &Instruction) -> Option<Self> {
        let number = |register: Register| match register {
            Register::None => Some(None),
            register if register.is_gpr64() => Some(Some(register.number() as u8)),
            _ => None,
        };
        Some(Self::Memory {
            base: number(instruction.memory_base())?,
            index: number(instruction.memory_index())?,
            scale: instruction.memory_index_scale().trailing_zeros() as u8,
            displacement: i32::try_from(instruction.memory_displacement64() as i64).ok()?,
        })
    }
}

struct Holder<'b> {
    instruction: &'b Instruction,
    parts: Parts<'b>,
    /// Offset of the field.
    at: usize,
    addend: i64,
}

impl Holder<'_> {
    /// `movabs $x, %r` to `mov slot(%rip), %r`
    fn whole(&self) -> Option<Rewritten> {
        if self.instruction.code() != Code::Mov_r64_imm64 {
            return None;
        }
        let (mut bytes, _) = load(self.instruction.op0_register());
        bytes.extend(NOP_OF_THREE);
        self.loads(bytes, FIELD + NOP_OF_THREE.len())
    }

    /// `mov $x, %r`, where there is room, to `mov slot(%rip), %r`
    fn immediate(&self) -> Option<Rewritten> {
        let instruction = self.instruction;
        let takes = instruction.code() == Code::Mov_rm64_imm32
            && instruction.op0_kind() == OpKind::Register;
        takes
            .then(|| load(instruction.op0_register()).0)
            .and_then(|bytes| self.loads(bytes, FIELD))
    }

    fn loads(&self, bytes: Vec<u8>, from_end: usize) -> Option<Rewritten> {
        let instruction = self.instruction;
        if bytes.len() != instruction.len() {
            return None;
        }
        let mut rewritten = rewritten(instruction, self.at, bytes, from_end, Value::EntryDistance);
        rewritten.patch.entry = self.addend;
        Some(rewritten)
    }

    /// `mov $x, %r` and `push $x` without such room.
    fn short_immediate(&self) -> Option<Rewritten> {
        let instruction = self.instruction;
        let code = match instruction.code() {
            // The upper half is zero, and of an address there is more.
            Code::Mov_r32_imm32 => {
                let (code, slot_at) = load(instruction.op0_register().full_register());
                code[..slot_at].to_vec()
            }
            Code::Pushq_imm32 => vec![0xff, 0x35],
            _ => return None,
        };
        let slot_at = code.len();
        let code = [code, vec![0; FIELD]].concat();
        let body = Body {
            code,
            slot_at,
            saved: None,
        };
        Some(by_detour(instruction, self.at, body, self.addend))
    }

    /// An operation with `$x` as its last operand.
    fn operand(&self) -> Option<Rewritten> {
        let instruction = self.instruction;
        let opcode = *self.parts.rest.first()?;
        let operation = self.parts.rest.get(1).map_or(0, |modrm| modrm >> 3 & 7);
        // The same operation with a register as source.
        let by_register = match (instruction.mnemonic(), opcode) {
            (Mnemonic::Mov, 0xc7) => 0x89,
            (Mnemonic::Test, 0xa9 | 0xf7) => 0x85,
            (_, 0x81) => operation << 3 | 1,
            (_, 0x05 | 0x0d | 0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d) => opcode & 0x38 | 1,
            _ => return None,
        };
        let used = Used::of(instruction);
        let scratch = used.scratch()?;
        let operand = match instruction.op0_kind() {
            OpKind::Register if !used.touches(Register::RSP) => {
                Operand::Register(instruction.op0_register().number() as u8)
            }
            OpKind::Memory => self.memory_with_stack_down(instruction.memory_base())?,
            _ => return None,
        };
        let bytes = self
            .parts
            .with(&[by_register], scratch.number() as u8, &operand, &[]);
        let new = decoded(&bytes, instruction.ip());
        let is_same = new.len() == bytes.len()
            && new.mnemonic() == instruction.mnemonic()
            && new.op0_kind() == instruction.op0_kind()
            && new.op0_register() == instruction.op0_register()
            && new.op1_register().full_register() == scratch
            && new.memory_base() == instruction.memory_base()
            && new.memory_index() == instruction.memory_index()
            && new.memory_index_scale() == instruction.memory_index_scale()
            && (instruction.op0_kind() != OpKind::Memory
                || new.memory_size().size() == instruction.memory_size().size());
        let size = match instruction.op0_kind() {
            OpKind::Memory => instruction.memory_size().size(),
            _ => instruction.op0_register().size(),
        };
        let body = saving(scratch, &[], &bytes);
        is_same.then(|| Rewritten {
            is_cut: size < size_of::<u64>(),
            ..by_detour(instruction, self.at, body, self.addend)
        })
    }

    /// The operand in memory, when the stack pointer is further down.
    fn memory_with_stack_down(&self, base: Register) -> Option<Operand> {
        let mut operand = Operand::of_memory(self.instruction)?;
        if let Operand::Memory { displacement, .. } = &mut operand
            && base == Register::RSP
        {
            *displacement = displacement.checked_add(SAVED)?;
        }
        Some(operand)
    }

    /// An operand in memory at `x` and a base or an index, or both.
    fn displacement(&self) -> Option<Rewritten> {
        let instruction = self.instruction;
        let Operand::Memory {
            base, index, scale, ..
        } = Operand::of_memory(instruction)?
        else {
            return None;
        };
        let used = Used::of(instruction);
        let result = self.result(&used);
        let (scratch, is_saved) = match result {
            Some(result) => (result, false),
            None => (used.scratch()?, true),
        };
        if used.touches(Register::RSP) {
            return None;
        }
        let number = scratch.number() as u8;
        // The base is added to what was loaded: lea (base, scratch), scratch
        let before = base.map_or_else(Vec::new, |base| {
            let sum = Operand::Memory {
                base: Some(base),
                index: Some(number),
                scale: 0,
                displacement: 0,
            };
            let (operand, bits) = sum.bytes(number & 7);
            let mut lea = vec![0x48 | number >> 3 << 2 | bits, 0x8d];
            lea.extend(operand);
            lea
        });
        let operand = Operand::Memory {
            base: Some(number),
            index,
            scale,
            displacement: i32::try_from(self.addend).ok()?,
        };
        let operation = self.with_operand(&operand)?;
        let new = decoded(&operation, instruction.ip());
        let is_same = new.code() == instruction.code()
            && new.len() == operation.len()
            && new.memory_base() == scratch
            && new.memory_index() == instruction.memory_index()
            && new.memory_index_scale() == instruction.memory_index_scale()
            && new.memory_displacement64() as i64 == self.addend
            && (0..instruction.op_count()).all(|at| {
                new.op_kind(at) == instruction.op_kind(at)
                    && (instruction.op_kind(at) != OpKind::Register
                        || new.op_register(at) == instruction.op_register(at))
            });
        let body = if is_saved {
            saving(scratch, &before, &operation)
        } else {
            let (load, slot_at) = load(scratch);
            Body {
                code: [load, before, operation].concat(),
                slot_at,
                saved: None,
            }
        };
        is_same.then(|| Rewritten {
            is_cut: instruction.code() == Code::Lea_r32_m,
            ..by_detour(instruction, self.at, body, 0)
        })
    }

    /// The register that the instruction overwrites and does not read. It can be an index, too.
    fn result(&self, used: &Used) -> Option<Register> {
        let instruction = self.instruction;
        let register = instruction.op0_register();
        if instruction.op0_kind() != OpKind::Register
            || !register.is_gpr32() && !register.is_gpr64()
        {
            return None;
        }
        let full = register.full_register();
        (used.overwrites(full) && full.number() != STACK).then_some(full)
    }

    /// The instruction with another operand in memory.
    fn with_operand(&self, operand: &Operand) -> Option<Vec<u8>> {
        let all = self.instruction.len();
        let head = all - self.parts.rest.len();
        let field = self.at.checked_sub(head)?;
        let tail = self.parts.rest.get(field + FIELD..)?;
        let before = self.parts.rest.get(..field)?;
        // With an index, without a base, or with one of the stack pointer's number, two bytes say what the operand is.
        let (base, index) = (
            self.instruction.memory_base(),
            self.instruction.memory_index(),
        );
        let is_two =
            index != Register::None || base == Register::None || base.number() % 8 == STACK;
        let modrm_at = before.len().checked_sub(if is_two { 2 } else { 1 })?;
        let modrm = *before.get(modrm_at)?;
        let reg = modrm >> 3 & 7 | (self.parts.extension.unwrap_or(0) & 4) << 1;
        Some(self.parts.with(&before[..modrm_at], reg, operand, tail))
    }
}
