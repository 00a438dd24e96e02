//! The instructions of a section, where it is certain what they are.
//!
//! A section is decoded from its first byte on, and is believed when everything fits: no invalid instruction, every
//! relocated field is an instruction's operand of the relocation's kind, and every symbol stands where an
//! instruction begins. Data among the code does not pass unnoticed that way, unless it looks like instructions; what control
//! reaches from the start of a function is none.

use std::cell::OnceCell;

use goblin::elf::reloc as r;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use super::hash::{HashMap, HashSet, map_with_capacity};
use super::object::Object;

/// A relocated field and the instruction that it belongs to, whose address is its offset in the section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) instruction: Instruction,
    /// Offset of the displacement in the instruction; none when the field is an immediate operand.
    pub(super) displacement: Option<usize>,
}

/// The relocated instructions of a section.
#[derive(Debug)]
pub(super) struct Instructions<'b> {
    pub(super) bytes: &'b [u8],
    fields: HashMap<u64, Field>,
    /// Where instructions are entered behind their first byte, to pass over a prefix or as data. In order.
    entered: Vec<u64>,
    /// Where functions begin, and the instructions that are reached from there, once somebody has asked.
    functions: Vec<u64>,
    reached: OnceCell<HashSet<u64>>,
}

impl<'b> Instructions<'b> {
    /// Decodes section `index` of an object.
    pub(super) fn read(object: &Object<'b>, index: usize) -> Option<Self> {
        let section = &object.sections[index];
        let relocations = section.relocations.iter();
        let relocated: HashMap<u64, u32> = relocations
            .filter(|r| !matches!(r.kind, r::R_X86_64_NONE | r::R_X86_64_TLSDESC_CALL))
            .map(|r| (r.offset, r.kind))
            .collect();
        let entered = object.entered_in(index);
        let mut starts = HashSet::default();
        let mut targets = Vec::new();
        let mut fields = map_with_capacity(relocated.len());
        let mut decoder = Decoder::with_ip(64, section.bytes, 0, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                return None;
            }
            let start = instruction.ip();
            starts.insert(start);
            if matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            ) {
                targets.push(instruction.near_branch_target());
            }
            let constants = decoder.get_constant_offsets(&instruction);
            let displacement = constants.displacement_offset();
            let immediate = constants.immediate_offset();
            let is_relative = instruction.is_ip_rel_memory_operand();
            let kind = |at: usize| relocated.get(&(start + at as u64)).copied();
            if constants.has_displacement() {
                if let Some(kind) = kind(displacement) {
                    if is_distance(kind) && !is_relative {
                        return None;
                    }
                    let field = Field {
                        instruction,
                        displacement: Some(displacement),
                    };
                    fields.insert(start + displacement as u64, field);
                } else if is_relative {
                    targets.push(instruction.ip_rel_memory_address());
                }
            }
            if constants.has_immediate()
                && let Some(kind) = kind(immediate)
            {
                if is_distance(kind) && instruction.op0_kind() != OpKind::NearBranch64 {
                    return None;
                }
                let field = Field {
                    instruction,
                    displacement: None,
                };
                fields.insert(start + immediate as u64, field);
            }
        }
        let size = section.bytes.len() as u64;
        let mut symbols = entered.symbols.iter();
        let stand_well = symbols.all(|symbol| *symbol >= size || starts.contains(symbol));
        if fields.len() != relocated.len() || !stand_well {
            return None;
        }
        targets.extend(&entered.addresses);
        targets.retain(|target| *target < size && !starts.contains(target));
        targets.sort_unstable();
        Some(Self {
            bytes: section.bytes,
            fields,
            entered: targets,
            functions: entered.functions.clone(),
            reached: OnceCell::new(),
        })
    }

    /// True when control reaches the instruction whose field is at `offset` from the start of a function, by what follows and
    /// by jumps within the section.
    pub(super) fn is_reached(&self, offset: u64) -> bool {
        let reached = self.reached.get_or_init(|| self.reach());
        let field = self.fields.get(&offset);
        field.is_some_and(|field| reached.contains(&field.instruction.ip()))
    }

    fn reach(&self) -> HashSet<u64> {
        let mut open = self.functions.clone();
        let mut reached = HashSet::default();
        while let Some(start) = open.pop() {
            let bytes = usize::try_from(start).ok();
            let bytes = bytes.and_then(|at| self.bytes.get(at..));
            let bytes = bytes.filter(|bytes| !bytes.is_empty());
            let Some(bytes) = bytes.filter(|_| !reached.contains(&start)) else {
                continue;
            };
            let instruction = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).decode();
            reached.insert(start);
            let (jumps, goes_on) = match instruction.flow_control() {
                _ if instruction.is_invalid() => (false, false),
                FlowControl::ConditionalBranch => (true, true),
                FlowControl::UnconditionalBranch => (true, false),
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => (false, true),
                _ => (false, false),
            };
            // Where a relocated one leads it does not say itself.
            let mut all = instruction.ip()..instruction.next_ip();
            if jumps && !all.any(|at| self.fields.contains_key(&at)) {
                open.push(instruction.near_branch_target());
            }
            if goes_on {
                open.push(instruction.next_ip());
            }
        }
        reached
    }

    /// The instruction whose field is at `offset`, if that is its only one and it runs from its beginning alone.
    pub(super) fn field(&self, offset: u64) -> Option<&Field> {
        let field = self.fields.get(&offset)?;
        let all = field.instruction.ip()..field.instruction.next_ip();
        let has_another = all
            .clone()
            .any(|other| other != offset && self.fields.contains_key(&other));
        let next = self.entered.partition_point(|target| *target <= all.start);
        let is_entered = self.entered.get(next).is_some_and(|at| all.contains(at));
        (!has_another && !is_entered).then_some(field)
    }
}

/// True for a relocation of which the place is subtracted, as an instruction's operand is counted from its end.
fn is_distance(kind: u32) -> bool {
    matches!(
        kind,
        r::R_X86_64_PC32
            | r::R_X86_64_PLT32
            | r::R_X86_64_GOTPCREL
            | r::R_X86_64_GOTPCRELX
            | r::R_X86_64_REX_GOTPCRELX
            | r::R_X86_64_GOTTPOFF
            | r::R_X86_64_TLSGD
            | r::R_X86_64_TLSLD
            | r::R_X86_64_GOTPC32_TLSDESC
    )
}
