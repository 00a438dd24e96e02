//! What must hold for an image before its bytes are made.

use std::collections::BTreeMap;

use super::args::LinkRequest;
use super::demangle;
use super::error::LinkError;
use super::hash::HashSet;
use super::image::Image;
use super::object::{Binding, Place, Relocation};
use super::references::patches;
use super::unit::Unit;

/// Where an ordinary link's data ends: who asks walks it, or adds to it.
const ENDS_OF_DATA: [&str; 5] = ["__bss_start", "_edata", "_end", "edata", "end"];

/// Of these, what is also the end of all that is loaded.
pub(super) const ENDS_OF_IMAGE: [&str; 2] = ["_end", "end"];

/// Defined by C libraries. They themselves only ask for the rest of the page that their memory begins in.
const OF_C_LIBRARY: &str = "__libc_start_main";

/// Frames and tables for unwinding code, which may lie in a copy that does not count.
const OF_CODE: [&str; 2] = [".eh_frame", ".gcc_except_table"];

/// What the program refers to must be there, or is to be warned of.
pub(super) fn refuse_undefined(
    image: &Image<'_, '_>,
    request: &LinkRequest,
) -> Result<Vec<String>, LinkError> {
    let mut required = request.required.iter();
    if let Some(name) = required.find(|name| image.import(name).is_none()) {
        return Err(LinkError::option(
            format!("--require-defined={name}"),
            "nothing defines it: name the object or the library (-l) that does",
        ));
    }
    let units: Vec<&Unit<'_>> = image.units.iter().collect();
    let mut missing: BTreeMap<&str, String> = BTreeMap::new();
    for u in image.included() {
        let unit = &image.units[u];
        let (mut object, mut is_fine) = (usize::MAX, Vec::new());
        for (o, s, section) in unit.sections() {
            if !section.is_loaded() || !image.takes(u, o, s) || image.program.is_unneeded(u, o, s) {
                continue;
            }
            if object != o {
                (object, is_fine) = (o, vec![false; unit.objects[o].symbols.len()]);
            }
            // Those that no other makes superfluous, once one is in doubt: such a one asks for nothing.
            let mut live: Option<HashSet<*const Relocation>> = None;
            let is_of_code = OF_CODE.iter().any(|name| section.name.starts_with(name));
            for relocation in &section.relocations {
                if is_fine[relocation.symbol] {
                    continue;
                }
                let Some(doubt) = doubt(image, (u, o), relocation.symbol) else {
                    is_fine[relocation.symbol] = true;
                    continue;
                };
                // Passed over, as by binutils (`_bfd_elf_default_action_discarded`).
                if is_of_code && matches!(doubt, Doubt::Discarded(_)) {
                    continue;
                }
                let live = match &mut live {
                    Some(live) => live,
                    none => {
                        let patches = patches(&units, u, &image.targets[u], (o, s))?;
                        let all = patches.iter().map(|patched| &raw const *patched.relocation);
                        none.insert(all.collect())
                    }
                };
                if !live.contains(&&raw const *relocation) {
                    continue;
                }
                let place = || image.place((u, o, s), relocation.offset);
                match doubt {
                    Doubt::EndOfData(symbol) => {
                        return Err(LinkError::EndOfData {
                            place: place(),
                            symbol: symbol.to_owned(),
                        });
                    }
                    Doubt::BorderOfNothing(symbol, script) => {
                        return Err(LinkError::Relocation {
                            place: place(),
                            problem: format!(
                                "{symbol} is where {script} has a border of sections that do not lie in one piece here: \
                                 link with the system's ld, or find them otherwise (dl_iterate_phdr)"
                            ),
                        });
                    }
                    Doubt::BorderOfMerged(symbol) => {
                        return Err(LinkError::Relocation {
                            place: place(),
                            problem: format!(
                                "{symbol} is a border of sections whose equal entries are to be merged, which is not \
                                 done: compile them without -fmerge-constants (flag M of the section)"
                            ),
                        });
                    }
                    Doubt::Discarded(symbol) => {
                        return Err(LinkError::Discarded {
                            place: place(),
                            symbol: symbol.to_owned(),
                        });
                    }
                    Doubt::Missing(name) => {
                        missing.entry(name).or_insert_with(place);
                        is_fine[relocation.symbol] = true;
                    }
                }
            }
        }
    }
    let are_errors = missing.keys().any(|name| !request.unresolved.is_zero(name));
    if !are_errors {
        missing.retain(|_, _| request.unresolved.warned && !request.unresolved.ignored);
        let warned = missing.into_iter();
        return Ok(warned
            .map(|(name, place)| {
                let name = if request.demangles {
                    demangle::shown(name)
                } else {
                    name.to_owned()
                };
                format!("{place}: undefined reference to {name}")
            })
            .collect());
    }
    missing.retain(|name, _| !request.unresolved.is_zero(name));
    let most = request.error_limit.unwrap_or(missing.len());
    let more = missing.len().saturating_sub(most);
    let listed = missing.into_iter().take(most);
    Err(LinkError::Undefined {
        references: listed
            .map(|(name, place)| (place, name.to_owned()))
            .collect(),
        more,
    })
}

/// What a script defines is defined by nothing else.
pub(super) fn refuse_script_symbols(image: &Image<'_, '_>) -> Result<(), LinkError> {
    for (symbol, file) in image.tables.symbols() {
        if let Some(id) = image.program.definition(symbol) {
            return Err(LinkError::Duplicate {
                symbol: symbol.to_owned(),
                first: image.units[id.unit].objects[id.object].name.clone(),
                second: file.to_owned(),
            });
        }
    }
    Ok(())
}

/// All sections of a name lie together.
pub(super) fn refuse_writable_code(image: &Image<'_, '_>) -> Result<(), LinkError> {
    match image
        .orphans
        .iter()
        .find(|orphan| orphan.is_writable_code())
    {
        None => Ok(()),
        Some(orphan) => Err(LinkError::Input {
            file: image.place(orphan.first().unwrap_or_default(), 0),
            problem: format!(
                "sections {} are writable in one object and executable in another, and lie together: give them \
                 names of their own",
                orphan.name
            ),
        }),
    }
}

/// A symbol says in 16 bits which section it is in.
pub(super) fn refuse_many_sections(image: &Image<'_, '_>) -> Result<(), LinkError> {
    /// From here on section numbers have other meanings (`SHN_LORESERVE`).
    const MOST: usize = 0xff00;
    // A library has five at most, the application some more.
    let own = 6 * (image.included().count() + 4);
    let count = own + image.orphans.len() + image.loose.by_name.len();
    if count <= MOST {
        return Ok(());
    }
    let orphan = image.orphans.last().map_or("", |orphan| &orphan.name);
    Err(LinkError::Input {
        file: image.units[0].label.clone(),
        problem: format!(
            "would have {count} sections, {MOST} at most are possible: give fewer sections names of their own (as \
             {orphan})"
        ),
    })
}

/// What may be wrong about a reference.
enum Doubt<'n> {
    /// It is to the end of all data.
    EndOfData(&'n str),
    /// It is to where a script has sections begin or end that are not in one piece.
    BorderOfNothing(&'n str, &'n str),
    /// It is to where sections begin or end that are to be merged.
    BorderOfMerged(&'n str),
    /// It is to a local symbol of a copy that does not count, which stands for nothing.
    Discarded(&'n str),
    /// Nothing defines it.
    Missing(&'n str),
}

/// What may be wrong about references of an object to a symbol, whatever section they are in.
fn doubt<'i>(image: &'i Image<'_, '_>, (u, o): (usize, usize), index: usize) -> Option<Doubt<'i>> {
    let unit = &image.units[u];
    let symbol = &unit.objects[o].symbols[index];
    if let Some(beside) = image.tables.beside(symbol.name)
        && beside.border.is_none()
        && image.program.definition(symbol.name).is_none()
    {
        return Some(Doubt::BorderOfNothing(symbol.name, &beside.file));
    }
    // Its kernel only asks what belongs to its image.
    let asks_for_image = image.tables.are_of_unikraft() && ENDS_OF_IMAGE.contains(&symbol.name);
    if ENDS_OF_DATA.contains(&symbol.name)
        && !asks_for_image
        && unit.definition(OF_C_LIBRARY).is_none()
        && image.program.definition(symbol.name).is_none()
        && image.has_data_apart()
    {
        return Some(Doubt::EndOfData(symbol.name));
    }
    if image.is_border_of_merged(symbol.name) {
        return Some(Doubt::BorderOfMerged(symbol.name));
    }
    if symbol.is_local() || symbol.name.is_empty() {
        return match symbol.place {
            Place::Section(of) if image.program.is_lost(u, o, of) => {
                let of = &unit.objects[o].sections[of];
                let is_named = !symbol.name.is_empty();
                Some(Doubt::Discarded(if is_named {
                    symbol.name
                } else {
                    of.name
                }))
            }
            _ => None,
        };
    }
    let name = image.program.name(u, o, symbol);
    let is_missing = image.program.refers(u, o, symbol)
        && symbol.binding != Binding::Weak
        && !image.means(u, &image.targets[u][o][index], name);
    is_missing.then_some(Doubt::Missing(name))
}
