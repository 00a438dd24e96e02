//! What targets are in an image: addresses, and what the program means by what a library has under a name.

use super::addresses::Import;
use super::image::{Image, View};
use super::object::Binding;
use super::target::Target;
use super::unit::UnitKind;

impl<'a> Image<'_, 'a> {
    /// The address of a target as seen from a unit. `None`: it takes no part in the image.
    /// `binding` is that of the reference; without one the unit's weakest counts.
    pub(super) fn address(
        &self,
        unit: usize,
        target: &Target<'a>,
        binding: Option<Binding>,
    ) -> Option<u64> {
        match target {
            Target::Defined(id) => self.symbol_address(*id),
            Target::Dropped | Target::ThreadPointer => None,
            Target::OffsetTable => Some(self.bases[unit].data),
            Target::Header => Some(self.common.constants.start),
            Target::SetStart(set) => self.own_set_border(unit, set, true),
            Target::SetEnd(set) => self.own_set_border(unit, set, false),
            Target::Import(name) => Some(match self.import(name) {
                Some(Import::Symbol(id)) => self.symbol_address(id)?,
                Some(Import::Address(address)) => address,
                None => {
                    let may_be_absent = match binding {
                        Some(binding) => binding == Binding::Weak,
                        None => self.plans[unit].weak_imports.contains(name),
                    };
                    // What can't be run in this program is as it is in others.
                    let is_aligned = self.units[unit].kind == UnitKind::Aligned;
                    if may_be_absent || is_aligned || self.is_zero(name) {
                        0
                    } else {
                        self.common.trap
                    }
                }
            }),
        }
    }

    /// What `target` means to the program: what a library has under a name need not be what counts.
    pub(super) fn meant(&self, target: &Target<'a>) -> Target<'a> {
        match target {
            Target::Defined(id) => {
                let symbol = self.symbol(*id);
                if symbol.is_local() || symbol.name.is_empty() {
                    return *target;
                }
                let counts = self.program.definition(symbol.name);
                counts.map_or(*target, Target::Defined)
            }
            other => *other,
        }
    }

    /// The program refers to `name`, has nothing under it, and is to have zero then.
    pub(super) fn is_zero(&self, name: &str) -> bool {
        self.unresolved.is_zero(name) && self.program.is_absent(name)
    }

    /// The other name that undefined references to `target` mean.
    pub(super) fn other_name(&self, target: &Target<'a>) -> Option<&'a str> {
        let name = match target {
            Target::Defined(id) if !self.symbol(*id).is_local() => self.symbol(*id).name,
            Target::Import(name) => name,
            _ => return None,
        };
        let other = self.program.renamed(name);
        (other != name).then_some(other)
    }

    /// What the program has under a name.
    pub(super) fn named(&self, name: &'a str) -> Target<'a> {
        let found = self.program.definition(name);
        found.map_or(Target::Import(name), Target::Defined)
    }

    /// What an entry of `unit` for the distance of `target` from the thread pointer holds.
    pub(super) fn thread_entry_value(&self, unit: usize, target: &Target<'a>) -> u64 {
        let is_direct = self.units[unit].kind.refers_directly();
        let meant = match self.other_name(target).filter(|_| !is_direct) {
            Some(name) => self.named(name),
            None => self.meant(target),
        };
        self.thread_value(&meant, View::Image) as u64
    }

    /// What an entry for `target` in the offset table of `unit` holds, and the unit with which that moves.
    pub(super) fn entry_value(&self, unit: usize, target: &Target<'a>) -> (u64, Option<usize>) {
        let is_direct = self.units[unit].kind.refers_directly();
        let (meant, binding) = match self.other_name(target).filter(|_| !is_direct) {
            Some(name) => {
                let may_be_absent = match target {
                    Target::Import(name) => self.plans[unit].weak_imports.contains(name),
                    _ => false,
                };
                (self.named(name), may_be_absent.then_some(Binding::Weak))
            }
            None if self.is_absent(target) => return (0, None),
            // Direct references have as targets what they mean.
            None => (self.meant(target), None),
        };
        let address = self.address(unit, &meant, binding).unwrap_or(0);
        let moves_with = self.moves_with(unit, &meant).filter(|_| address != 0);
        (address, moves_with)
    }

    /// The program refers to it by weak references alone, and has no definition: what a library has under the
    /// name is not in the program.
    pub(super) fn is_absent(&self, target: &Target<'a>) -> bool {
        match target {
            Target::Defined(id) => self.program.is_absent(self.symbol(*id).name),
            _ => false,
        }
    }

    /// True when the program has something under `name`, which is `target` to the unit that refers to it.
    pub(super) fn means(&self, unit: usize, target: &Target<'a>, name: &str) -> bool {
        match target {
            Target::Import(_) | Target::Defined(_) => self.import(name).is_some(),
            Target::Dropped => false,
            Target::OffsetTable | Target::Header | Target::ThreadPointer => true,
            Target::SetStart(set) | Target::SetEnd(set) => {
                self.own_set_border(unit, set, true).is_some()
            }
        }
    }

    pub(super) fn thread_value(&self, target: &Target<'a>, view: View) -> i128 {
        match target {
            Target::Defined(id) => self.thread_offset(*id, view),
            Target::Import(name) => match self.import(name) {
                Some(Import::Symbol(id)) => self.thread_offset(id, view),
                _ => 0,
            },
            _ => 0,
        }
    }

    pub(super) fn size(&self, target: &Target<'a>) -> u64 {
        match target {
            Target::Defined(id) => self.symbol(*id).size,
            Target::Import(name) => match self.import(name) {
                Some(Import::Symbol(id)) => self.symbol(id).size,
                _ => 0,
            },
            _ => 0,
        }
    }
}
