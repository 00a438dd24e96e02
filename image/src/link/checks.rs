//! What must hold for an image before its bytes are made.

use std::collections::{BTreeMap, BTreeSet};

use super::error::LinkError;
use super::image::Image;
use super::object::Binding;
use super::references::patches;
use super::symbols::Target;
use super::unit::Unit;

/// Most undefined references that are listed.
const MAX_LISTED: usize = 20;

/// What an ordinary link would have needed must be there.
pub(super) fn refuse_undefined(image: &Image<'_, '_>) -> Result<(), LinkError> {
    let units: Vec<&Unit<'_>> = image.units.iter().collect();
    let mut missing: BTreeMap<&str, String> = BTreeMap::new();
    for u in image.included() {
        let unit = &image.units[u];
        for (o, s, section) in unit.sections() {
            if !section.is_loaded() || !image.reach.is_needed(u, o) {
                continue;
            }
            for patched in patches(&units, u, &image.targets[u], (o, s))? {
                let relocation = patched.relocation;
                let symbol = &unit.objects[o].symbols[relocation.symbol];
                if let Target::Import(name) = patched.target
                    && symbol.binding != Binding::Weak
                    && !missing.contains_key(name)
                    && image.import(name).is_none()
                {
                    missing.insert(name, image.place((u, o, s), relocation.offset));
                }
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = missing.len().saturating_sub(MAX_LISTED);
    let mut lines: Vec<String> = missing
        .iter()
        .take(MAX_LISTED)
        .map(|(name, place)| format!("  {name}, which {place} refers to"))
        .collect();
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.push("name the object or the library (-l) that defines them".to_owned());
    Err(LinkError::Undefined(lines))
}

/// Sections that a unit walks from end to end must all be its own.
pub(super) fn refuse_split_sets(image: &Image<'_, '_>) -> Result<(), LinkError> {
    for u in image.included() {
        let unit = &image.units[u];
        let mut walked = BTreeSet::new();
        for (o, s, _) in unit.symbols() {
            if let Target::SetStart(set) | Target::SetEnd(set) = image.targets[u][o][s]
                && image.reach.is_reached(u, o)
            {
                walked.insert(set);
            }
        }
        for other in image.included().filter(|other| *other != u) {
            let part = image.units[other].sections().find(|(o, _, section)| {
                section.is_loaded()
                    && walked.contains(section.name)
                    && image.reach.is_reached(other, *o)
            });
            if let Some((o, _, section)) = part {
                return Err(LinkError::SplitSet {
                    library: unit.label.clone(),
                    section: section.name.to_owned(),
                    first: format!("__start_{}", section.name),
                    other: image.units[other].objects[o].name.clone(),
                });
            }
        }
    }
    Ok(())
}
