//! The linker scripts that stand in for an archive (`libm.a` on Debian is one).
//!
//! Only commands that name files are followed: `INPUT`, `GROUP` and `AS_NEEDED`. A script that
//! says where things go is refused.

use super::error::LinkError;

/// Most scripts that may name each other.
pub(super) const MOST_NESTED: usize = 8;

/// A file that a script names, or the border of a group of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    File(String),
    /// `-lNAME`.
    Library(String),
    /// What follows, up to the end, is searched together.
    GroupStart,
    GroupEnd,
}

/// True when `bytes` look like text.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(256)];
    !start.is_empty()
        && start
            .iter()
            .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
}

/// The files that the script `text` names.
pub(super) fn files(file: &str, text: &str) -> Result<Vec<Named>, LinkError> {
    let refused = |what: &str| {
        LinkError::input(
            file,
            format!(
                "not an object, an archive, or a linker script of INPUT and GROUP commands (found \
                 {what:?}): name the archives themselves"
            ),
        )
    };
    let tokens = tokens(text);
    let mut named = Vec::new();
    let mut depth = 0usize;
    let mut ignored_from = usize::MAX;
    let mut groups = Vec::new();
    let mut tokens = tokens.iter().map(String::as_str).peekable();
    while let Some(token) = tokens.next() {
        match token {
            ")" => {
                if groups.pop_if(|group| *group == depth).is_some() {
                    named.push(Named::GroupEnd);
                }
                depth = depth.checked_sub(1).ok_or_else(|| refused(")"))?;
                if depth < ignored_from {
                    ignored_from = usize::MAX;
                }
            }
            "INPUT" | "GROUP" | "AS_NEEDED" | "OUTPUT_FORMAT" | "OUTPUT_ARCH" | "SEARCH_DIR"
                if tokens.peek() == Some(&"(") =>
            {
                tokens.next();
                depth += 1;
                if token == "GROUP" {
                    groups.push(depth);
                    named.push(Named::GroupStart);
                }
                if token.starts_with("OUTPUT") || token == "SEARCH_DIR" {
                    ignored_from = ignored_from.min(depth);
                }
            }
            _ if depth == 0 => return Err(refused(token)),
            _ if depth >= ignored_from => {}
            _ => named.push(match token.strip_prefix("-l") {
                Some(name) => Named::Library(name.to_owned()),
                None => Named::File(token.to_owned()),
            }),
        }
    }
    Ok(named)
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else if c.is_whitespace() || matches!(c, ',' | ';') {
            rest = &rest[c.len_utf8()..];
        } else if matches!(c, '(' | ')') {
            tokens.push(c.to_string());
            rest = &rest[1..];
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';'))
                .unwrap_or(rest.len());
            tokens.push(rest[..end].trim_matches('"').to_owned());
            rest = &rest[end..];
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_s_libm_is_followed() {
        let text = "/* GNU ld script\n*/\nOUTPUT_FORMAT(elf64-x86-64)\n\
                    GROUP ( /usr/lib/libm-2.36.a AS_NEEDED ( -lmvec ) )\n";
        let expected = [
            Named::GroupStart,
            Named::File("/usr/lib/libm-2.36.a".into()),
            Named::Library("mvec".into()),
            Named::GroupEnd,
        ];
        assert_eq!(files("libm.a", text).unwrap(), expected);
    }

    #[test]
    fn scripts_that_place_sections_are_refused() {
        for bad in [
            "SECTIONS { . = 0x1000; }",
            "hello",
            "GROUP ( a ) )",
            "/* open",
        ] {
            let result = files("x", bad);
            assert!(result.is_err() || result.unwrap().is_empty(), "{bad}");
        }
    }
}
