//! What people and programs read: tables with units, or JSON.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use pool_core::digest::ObjectId;
use serde::Serialize;

/// Prints `value` as JSON, or what `text` makes of it.
pub(crate) fn print<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<()> {
    let mut out = if json {
        serde_json::to_string_pretty(value)?
    } else {
        harmless(&text(value))
    };
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// As [`print()`], for verbs whose exit status says something, too: that holds whether anybody reads the rest or not.
pub(crate) fn print_if_read<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<()> {
    match print(json, value, text) {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        printed => printed,
    }
}

/// True when nobody reads what is printed any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error and what caused it. Many name their cause themselves.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.ends_with(&cause) {
            continue;
        }
        if !told.is_empty() {
            told.push_str(": ");
        }
        told.push_str(&cause);
    }
    told
}

/// What a service or a file said, without what a terminal would obey.
pub(crate) fn harmless(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' => letter,
        _ if letter.is_control() => char::REPLACEMENT_CHARACTER,
        _ => letter,
    };
    text.chars().map(shown).collect()
}

/// What goes into a line of which others may have chosen a part, who could go on to lines of their own.
pub(crate) fn harmless_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], "\u{fffd}")
}

/// A column of a table, by its heading.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    /// Names and digests, aligned to the left.
    Text(&'static str),
    /// Numbers, with a unit or without, aligned to the right.
    Number(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Text(heading) | Self::Number(heading) => heading,
        }
    }
}

/// Rows of cells under a heading, aligned.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let cell_width = |cell: &str| cell.chars().count();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(nth, column)| {
            let cells = rows.iter().map(|row| cell_width(&row[nth]));
            cells.max().unwrap_or(0).max(cell_width(column.heading()))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((column, width), cell) in columns.iter().zip(&widths).zip(cells) {
            let padding = " ".repeat(width - cell_width(cell));
            let (before, after) = match column {
                Column::Number(_) => (padding.as_str(), ""),
                Column::Text(_) => ("", padding.as_str()),
            };
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
            line.push_str("  ");
        }
        format!("{}\n", line.trim_end())
    };
    let mut out = line(&mut columns.iter().map(|column| column.heading()));
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// Names and values, one pair a line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {value}\n");
    pairs.iter().map(line).collect()
}

/// Bytes with a binary unit: `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago `timestamp` was: `3 h`.
pub(crate) fn age(timestamp: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    match now.saturating_sub(timestamp) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// The first digits of a digest: enough for people to compare.
pub(crate) fn short(id: &ObjectId) -> String {
    id.to_string()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn a_cause_that_an_error_names_is_not_told_again() {
        let missing = || io::Error::other("missing");
        let error = anyhow::Error::from(missing()).context("reading a: missing");
        assert_eq!(
            causes(&error.context("linking b")),
            "linking b: reading a: missing"
        );
        let error = anyhow::Error::from(missing()).context("reading a");
        assert_eq!(causes(&error), "reading a: missing");
    }

    #[test]
    fn tables_align_numbers_to_the_right() {
        let rows = vec![
            vec!["a".into(), "9 B".into(), "75".into(), "-".into()],
            vec!["long".into(), "1.5 KiB".into(), "8".into(), "-".into()],
        ];
        let columns = [
            Column::Text("NAME"),
            Column::Number("SIZE"),
            Column::Text("DIGEST"),
            Column::Text("LIBRARIES"),
        ];
        // Digits may all that a digest has be.
        assert_eq!(
            table(&columns, &rows),
            "NAME     SIZE  DIGEST  LIBRARIES\na         9 B  75      -\nlong  1.5 KiB  8       -\n"
        );
    }
}
