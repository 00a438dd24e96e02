//! Images beside each other as a picture (SVG 1.1): an image a column, a page a cell, in the order of addresses, coloured by
//! how many of the images have it.

use std::fmt::Write as _;

use super::against::{Compared, Comparison};

/// Pages in a row of a column.
const CELLS: usize = 32;
/// Pixels of a cell, with the line around it.
const CELL: usize = 7;
const WIDTH: usize = CELLS * CELL;
const GAP: usize = 28;
const MARGIN: usize = 24;
/// Where the columns begin: below the title and the legend.
const TOP: usize = 108;
/// Height of the name of a part.
const LABEL: usize = 16;
/// Longest name that a column has room for, in letters.
const LONGEST: usize = 36;

/// Pages of zeros, and pages that one image has: what could be shared and is not stands out.
const ZERO: &str = "#e8e8e8";
const ALONE: &str = "#d55e00";
/// From few to all images: one hue from light to dark, which those who see no colours can tell, too.
const SHARED: [(u8, u8, u8); 2] = [(0x9e, 0xca, 0xe1), (0x08, 0x30, 0x6b)];

/// Draws a comparison.
pub fn draw(comparison: &Comparison) -> String {
    let images = &comparison.images;
    let width = 2 * MARGIN + images.len() * (WIDTH + GAP) - GAP.min(images.len() * GAP);
    let height = TOP + images.iter().map(height_of).max().unwrap_or(0) + MARGIN;
    let width = width.max(2 * MARGIN + 3 * WIDTH);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222222\">\n\
         <defs><pattern id=\"grid\" width=\"{CELL}\" height=\"{CELL}\" patternUnits=\"userSpaceOnUse\">\
         <path d=\"M {CELL} 0 L 0 0 0 {CELL}\" fill=\"none\" stroke=\"#ffffff\" stroke-width=\"1\"/></pattern></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let total: u64 = images.iter().map(|image| image.pages.0).sum();
    text(
        &mut svg,
        (MARGIN, MARGIN + 4),
        " font-size=\"18\"",
        &format!(
            "{total} pages of {} images, {} in the pool",
            images.len(),
            comparison.distinct.0
        ),
    );
    legend(&mut svg, images.len() as u32);
    for (at, image) in images.iter().enumerate() {
        column(
            &mut svg,
            MARGIN + at * (WIDTH + GAP),
            image,
            images.len() as u32,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, images: u32) {
    let mut entries = vec![(ALONE.to_owned(), "in one image".to_owned())];
    match images {
        0 | 1 => {}
        2 => entries.push((shade(2, images), "in both".to_owned())),
        _ => {
            entries.push((shade(2, images), "in 2".to_owned()));
            if images > 3 {
                let middle = images.div_ceil(2).max(3);
                entries.push((shade(middle, images), format!("in {middle}")));
            }
            entries.push((shade(images, images), format!("in all {images}")));
        }
    }
    entries.push((ZERO.to_owned(), "zeros, stored nowhere".to_owned()));
    let mut x = MARGIN;
    for (colour, name) in entries {
        rectangle(svg, (x, MARGIN + 22), (12, 12), &colour);
        text(svg, (x + 18, MARGIN + 32), "", &name);
        x += 18 + 8 * name.len() + 16;
    }
}

fn height_of(image: &Compared) -> usize {
    let rows = image
        .parts
        .iter()
        .map(|part| part.cells.len().div_ceil(CELLS));
    rows.map(|rows| LABEL + rows * CELL).sum::<usize>()
}

fn column(svg: &mut String, x: usize, image: &Compared, images: u32) {
    text(
        svg,
        (x, TOP - 26),
        " font-weight=\"bold\"",
        &cut(&image.name),
    );
    let shared = image.in_all.0 + image.in_some.0;
    let share = format!(
        "{} pages, {:.0}% shared",
        image.pages.0,
        100.0 * shared as f64 / image.pages.0.max(1) as f64
    );
    text(svg, (x, TOP - 10), "", &share);
    let mut y = TOP;
    for part in &image.parts {
        let name = part
            .library
            .as_ref()
            .map_or_else(|| "its own".to_owned(), ToString::to_string);
        let name = if part.is_data {
            format!("{name}, data")
        } else {
            name
        };
        // The border of a library, and its name below.
        let _ = writeln!(
            svg,
            "<path d=\"M {x} {y} h {WIDTH}\" stroke=\"#222222\" stroke-width=\"1\"/>"
        );
        text(svg, (x, y + 12), " font-size=\"11\"", &cut(&name));
        y += LABEL;
        for row in part.cells.chunks(CELLS) {
            let mut at = 0;
            for same in row.chunk_by(|one, other| one == other) {
                let colour = match same[0] {
                    0 => ZERO.to_owned(),
                    1 => ALONE.to_owned(),
                    holders => shade(holders, images),
                };
                rectangle(svg, (x + at * CELL, y), (same.len() * CELL, CELL), &colour);
                at += same.len();
            }
            y += CELL;
        }
        let rows = part.cells.len().div_ceil(CELLS);
        let _ = writeln!(
            svg,
            "<g transform=\"translate({x} {})\"><rect width=\"{WIDTH}\" height=\"{}\" fill=\"url(#grid)\"/></g>",
            y - rows * CELL,
            rows * CELL
        );
    }
}

/// The colour of a page that so many of all images have.
fn shade(holders: u32, images: u32) -> String {
    let part = f64::from(holders.saturating_sub(2)) / f64::from(images.saturating_sub(2).max(1));
    let part = if images <= 2 { 1.0 } else { part.min(1.0) };
    let [from, to] = SHARED;
    let mix = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * part) as u8;
    format!(
        "#{:02x}{:02x}{:02x}",
        mix(from.0, to.0),
        mix(from.1, to.1),
        mix(from.2, to.2)
    )
}

fn rectangle(
    svg: &mut String,
    (x, y): (usize, usize),
    (width, height): (usize, usize),
    colour: &str,
) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (usize, usize), style: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\"{style}>{}</text>",
        escaped(words)
    );
}

/// The end of a name tells more than its beginning.
fn cut(name: &str) -> String {
    let letters = name.chars().count();
    if letters <= LONGEST {
        return name.to_owned();
    }
    let end: String = name.chars().skip(letters - LONGEST + 1).collect();
    format!("\u{2026}{end}")
}

fn escaped(words: &str) -> String {
    let mut safe = String::with_capacity(words.len());
    for letter in words.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML has no place for them.
            _ if letter.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            _ => safe.push(letter),
        }
    }
    safe
}
