//! Addresses in an image, once everything has its place.

use super::image::{Image, View};
use super::object::{Gathered, Place, Symbol};
use super::plan::{Entry, Part};
use super::references;
use super::tables::ThreadBorder;
use super::target::Target;
use super::unit::SymbolId;

/// What an import turned out to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Import {
    Symbol(SymbolId),
    Address(u64),
}

impl<'i, 'a> Image<'i, 'a> {
    /// Address of a byte of a section; in the output section for one that is not loaded. A symbol may stand before its
    /// section: such an offset is that of a negative number.
    pub(super) fn section_address(
        &self,
        unit: usize,
        object: usize,
        section: usize,
        offset: u64,
    ) -> Option<u64> {
        let plan = &self.plans[unit];
        let placement = plan.placement(object, section);
        let base = &self.bases[unit];
        let start = match placement.part {
            Part::Code => base.code,
            Part::Constant => base.constant,
            Part::Bound => base.bound,
            Part::Data => match self.moved(unit, object, section) {
                Some(start) => return Some(start.wrapping_add(offset)),
                None => base.data,
            },
            Part::Thread => self.thread_block(unit),
            Part::Gathered(_) => {
                let start = self.gathered_index.get(&(unit, object, section))?;
                return Some(start.wrapping_add(offset));
            }
            Part::Loose => {
                let name = self.units[unit].objects[object].sections[section].name;
                return self.loose.offset(name, (unit, object, section), offset);
            }
            Part::Dropped => return None,
        };
        let inside = match placement.merged {
            Some(merged) => plan.merged[merged].position((unit, object, section), offset),
            None => offset,
        };
        Some((start + placement.offset).wrapping_add(inside))
    }

    /// Where the image has data that has a place in its library, and lies with others of its name.
    pub(super) fn moved(&self, unit: usize, object: usize, section: usize) -> Option<u64> {
        let is_alone = self.units[unit].objects[object].sections[section].is_alone;
        let start = is_alone.then(|| self.gathered_index.get(&(unit, object, section)));
        start.flatten().copied()
    }

    /// Where other images have a symbol that this one has moved.
    pub(super) fn address_elsewhere(&self, target: &Target<'a>) -> Option<u64> {
        let Target::Defined(id) = target else {
            return None;
        };
        let symbol = self.symbol(*id);
        let Place::Section(section) = symbol.place else {
            return None;
        };
        self.moved(id.unit, id.object, section)?;
        let placement = self.plans[id.unit].placement(id.object, section);
        let start = self.bases[id.unit].data + placement.offset;
        Some(start.wrapping_add(symbol.value))
    }

    /// Address of a unit's part of the thread-local template.
    pub(super) fn thread_block(&self, unit: usize) -> u64 {
        (self.common.thread.end()).saturating_sub(self.bases[unit].thread)
    }

    pub(super) fn symbol(&self, id: SymbolId) -> &'i Symbol<'a> {
        &self.units[id.unit].objects[id.object].symbols[id.symbol]
    }

    /// Address of a symbol: for a function that chooses its implementation at start, its stub.
    pub(super) fn symbol_address(&self, id: SymbolId) -> Option<u64> {
        let symbol = self.symbol(id);
        let plan = &self.plans[id.unit];
        if let (true, Some(stub)) = (
            symbol.is_indirect_function(),
            plan.resolved_stub(id.object, symbol),
        ) {
            return Some(self.bases[id.unit].code + stub);
        }
        self.own_address(id)
    }

    /// Address of the jump that calls take of a function which has moved since an earlier version of its library.
    pub(super) fn jump(&self, target: &Target<'a>) -> Option<u64> {
        let Target::Defined(id) = target else {
            return None;
        };
        let symbol = self.symbol(*id);
        let is_start = symbol.value == 0 && !symbol.is_indirect_function();
        let Place::Section(section) = symbol.place else {
            return None;
        };
        let plan = &self.plans[id.unit];
        let jump = plan.jump(id.object, section).filter(|_| is_start)?;
        Some(self.bases[id.unit].code + jump)
    }

    /// Address of a symbol itself, not of a stub.
    pub(super) fn own_address(&self, id: SymbolId) -> Option<u64> {
        let symbol = self.symbol(id);
        match symbol.place {
            Place::Undefined => Some(0),
            Place::Absolute => Some(symbol.value),
            Place::Common => {
                let offset = self.plans[id.unit].common(id.object, id.symbol)?;
                let start = if symbol.is_thread_local() {
                    self.thread_block(id.unit)
                } else {
                    self.bases[id.unit].data
                };
                Some(start + offset)
            }
            Place::Section(section) => {
                self.section_address(id.unit, id.object, section, symbol.value)
            }
        }
    }

    /// Distance of a thread-local symbol from the thread pointer: here, or where its library has it elsewhere.
    pub(super) fn thread_offset(&self, id: SymbolId, view: View) -> i128 {
        let symbol = self.symbol(id);
        let offset = match symbol.place {
            Place::Section(section) => {
                let placement = self.plans[id.unit].placement(id.object, section);
                i128::from(placement.offset) + i128::from(symbol.value as i64)
            }
            Place::Common => {
                let offset = self.plans[id.unit].common(id.object, id.symbol);
                i128::from(offset.unwrap_or(0))
            }
            _ => return 0,
        };
        let block = match view {
            View::Image => self.bases[id.unit].thread,
            View::Elsewhere => self.registered_threads[id.unit],
        };
        offset - i128::from(block)
    }

    /// Address of a unit's entry for a target, or of the stub for calls of it.
    pub(super) fn entry_address(&self, unit: usize, entry: &Entry<'a>) -> Option<u64> {
        Some(self.bases[unit].data + self.plans[unit].entry(entry)?)
    }

    pub(super) fn stub_address(&self, unit: usize, target: &Target<'a>) -> Option<u64> {
        Some(self.bases[unit].code + self.plans[unit].stub(target)?)
    }

    /// What the image has under a name that a unit leaves open.
    pub(super) fn import(&self, name: &str) -> Option<Import> {
        if let Some(id) = self.program.definition(name) {
            return Some(Import::Symbol(id));
        }
        self.provided(name).map(Import::Address)
    }

    /// Symbols that the linker provides, as GNU ld's default script does.
    fn provided(&self, name: &str) -> Option<u64> {
        let common = &self.common;
        let array = |kind| common.arrays.get(&kind).copied().unwrap_or_default();
        let stored = self.bases[0].data + self.plans[0].data_stored;
        Some(match name {
            "__preinit_array_start" => array(Gathered::PreinitArray).start,
            "__preinit_array_end" => array(Gathered::PreinitArray).end(),
            "__init_array_start" => array(Gathered::InitArray).start,
            "__init_array_end" => array(Gathered::InitArray).end(),
            "__fini_array_start" => array(Gathered::FiniArray).start,
            "__fini_array_end" => array(Gathered::FiniArray).end(),
            "__rela_iplt_start" => common.resolvers.start,
            "__rela_iplt_end" => common.resolvers.end(),
            "etext" | "_etext" | "__etext" => common.code.end(),
            "edata" | "_edata" | "__bss_start" => stored,
            "end" | "_end" if self.tables.are_of_unikraft() => self.end(),
            "end" | "_end" => common.data.end(),
            _ => {
                if let Some(beside) = self.tables.beside(name) {
                    return Some(match beside.border? {
                        ThreadBorder::Start => common.thread.start,
                        ThreadBorder::Stored => common.thread.start + common.thread_stored,
                        ThreadBorder::End => common.thread.end(),
                    });
                }
                let of_table = self.table_symbols.get(name).copied();
                return of_table.or_else(|| self.orphan_border(name));
            }
        })
    }

    /// The end of all that is loaded.
    fn end(&self) -> u64 {
        let ends = self.included().map(|unit| {
            let (base, plan) = (&self.bases[unit], &self.plans[unit]);
            match unit {
                0 => self.common.data.end(),
                _ => (base.code + plan.shared_size())
                    .max(base.bound + plan.bound.size)
                    .max(base.data + plan.data.size),
            }
        });
        ends.max().unwrap_or(0)
    }

    /// A border of the sections of one name in one unit.
    pub(super) fn own_set_border(&self, unit: usize, set: &str, is_start: bool) -> Option<u64> {
        let (part, start, end) = *self.plans[unit].sets.get(set)?;
        let base = &self.bases[unit];
        let base = match part {
            Part::Code => base.code,
            Part::Constant => base.constant,
            Part::Bound => base.bound,
            Part::Data => base.data,
            _ => return None,
        };
        Some(base + if is_start { start } else { end })
    }

    /// For messages.
    pub(super) fn place(&self, at: (usize, usize, usize), offset: u64) -> String {
        references::place(&self.units[at.0], at.1, at.2, offset)
    }
}
