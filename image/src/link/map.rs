//! The link map: where each section of each object went.

use std::fmt::Write;

use super::image::Image;
use super::relocate::Contents;

/// The map as text: address, size, section, object; by unit. `names` are those of the units.
pub(super) fn text(image: &Image<'_, '_>, contents: &Contents, names: &[String]) -> String {
    let mut text = String::new();
    for unit in image.included() {
        let name = match names[unit].as_str() {
            "" => "the application",
            name => name,
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} ({})", image.units[unit].label);
        let mut lines = Vec::new();
        for (o, s, section) in image.units[unit].sections() {
            if section.size == 0 || !section.is_loaded() {
                continue;
            }
            if let Some(address) = image.section_address(unit, o, s, 0) {
                let object = &image.units[unit].objects[o].name;
                lines.push((address, section.size, section.name, object));
            }
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
