//! The instructions of a section, where it is certain what they are.
//!
//! A section is decoded from its first byte on, and is believed when everything fits: no invalid instruction, every
//! relocated field is an instruction's displacement or immediate operand, and every symbol stands where an
//! instruction begins. Data among the code does not pass unnoticed that way.

use std::collections::{HashMap, HashSet};

use goblin::elf::reloc::{R_X86_64_NONE, R_X86_64_TLSDESC_CALL};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use super::object::{Object, Place};

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
    /// Where jumps enter instructions behind their first byte, to pass over a prefix.
    entered: Vec<u64>,
}

impl<'b> Instructions<'b> {
    /// Decodes section `index` of an object.
    pub(super) fn read(object: &Object<'b>, index: usize) -> Option<Self> {
        let section = &object.sections[index];
        let relocations = section.relocations.iter();
        let relocated: HashSet<u64> = relocations
            .filter(|r| !matches!(r.kind, R_X86_64_NONE | R_X86_64_TLSDESC_CALL))
            .map(|r| r.offset)
            .collect();
        let mut starts = HashSet::new();
        let mut targets = Vec::new();
        let mut fields = HashMap::with_capacity(relocated.len());
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
            if constants.has_displacement() && relocated.contains(&(start + displacement as u64)) {
                let field = Field {
                    instruction,
                    displacement: Some(displacement),
                };
                fields.insert(start + displacement as u64, field);
            }
            if constants.has_immediate() && relocated.contains(&(start + immediate as u64)) {
                let field = Field {
                    instruction,
                    displacement: None,
                };
                fields.insert(start + immediate as u64, field);
            }
        }
        let size = section.bytes.len() as u64;
        let mut symbols = object.symbols.iter();
        let stand_well = symbols.all(|symbol| {
            symbol.place != Place::Section(index)
                || symbol.value >= size
                || starts.contains(&symbol.value)
        });
        if fields.len() != relocated.len() || !stand_well {
            return None;
        }
        targets.retain(|target| *target < size && !starts.contains(target));
        Some(Self {
            bytes: section.bytes,
            fields,
            entered: targets,
        })
    }

    /// The instruction whose field is at `offset`, if that is its only one and it runs from its beginning alone.
    pub(super) fn field(&self, offset: u64) -> Option<&Field> {
        let field = self.fields.get(&offset)?;
        let all = field.instruction.ip()..field.instruction.next_ip();
        let has_another = all
            .clone()
            .any(|other| other != offset && self.fields.contains_key(&other));
        let is_entered = self
            .entered
            .iter()
            .any(|target| *target != all.start && all.contains(target));
        (!has_another && !is_entered).then_some(field)
    }
}
