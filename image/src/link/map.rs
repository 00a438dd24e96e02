//! What is told beside the executable: where each section of each object went, and what was read.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use pool_core::registry::Reservation;

use super::image::Image;
use super::places::arrange::JUMP_SIZE;
use super::relocate::Contents;

/// The map as text: address, size, section, object; by unit. `names` are those of the units, `reservations` those of the libraries,
/// which are the units from 1 on.
pub(super) fn text(
    image: &Image<'_, '_>,
    contents: &Contents,
    names: &[String],
    reservations: &[Option<Reservation>],
) -> String {
    let mut text = String::new();
    for unit in image.included() {
        let name = match names[unit].as_str() {
            "" => "the application",
            name => name,
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{name} ({})", image.units[unit].label);
        let reservation = unit
            .checked_sub(1)
            .and_then(|at| reservations.get(at)?.as_ref());
        if let Some(version) = reservation.and_then(|r| r.request.keeps.as_ref()) {
            let _ = write!(text, ", with what it has of {version} where it was");
        }
        text.push('\n');
        let mut lines = Vec::new();
        for (o, s, section) in image.units[unit].sections() {
            if section.size == 0 || !section.is_loaded() {
                continue;
            }
            if let Some(address) = image.section_address(unit, o, s, 0) {
                let object = &image.units[unit].objects[o].name;
                lines.push((address, section.size, section.name.to_owned(), object));
            }
        }
        for ((o, s), offset) in &image.plans[unit].jumps {
            let section = &image.units[unit].objects[*o].sections[*s];
            let object = &image.units[unit].objects[*o].name;
            let what = format!("{} (a jump to it)", section.name);
            lines.push((image.bases[unit].code + offset, JUMP_SIZE, what, object));
        }
        lines.sort_unstable();
        for (page, own) in &contents.own[unit] {
            let because: Vec<&str> = own.because.iter().map(String::as_str).collect();
            let because = because.join(", ");
            let _ = writeln!(text, "  page {page} is this image's own: {because}");
        }
        for (address, size, section, object) in lines {
            let _ = writeln!(text, "  {address:#010x} {size:#8x} {section:24} {object}");
        }
    }
    text
}

/// A rule for make: `output` depends on `inputs`, none of which is an error when it has gone.
pub(super) fn rule(output: &Path, inputs: &[PathBuf]) -> String {
    let inputs: Vec<String> = inputs.iter().map(|path| for_make(path)).collect();
    let mut text = format!("{}:", for_make(output));
    for input in &inputs {
        let _ = write!(text, " \\\n  {input}");
    }
    text.push('\n');
    for input in &inputs {
        let _ = write!(text, "\n{input}:\n");
    }
    text
}

/// A path as make reads it.
fn for_make(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            ' ' | '#' => text.push('\\'),
            '$' => text.push('$'),
            _ => {}
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_what_was_read() {
        let inputs = ["/l/crt1.o", "a b$c.o"].map(PathBuf::from);
        let expected = "out: \\\n  /l/crt1.o \\\n  a\\ b$$c.o\n\n/l/crt1.o:\n\na\\ b$$c.o:\n";
        assert_eq!(rule(Path::new("out"), &inputs), expected);
    }
}
