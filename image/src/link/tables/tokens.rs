//! The words of a script.

/// A name of a section or of a symbol.
pub(super) fn is_name(token: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '$');
    token != "."
        && !matches!(token, "KEEP" | "ASSERT")
        && token.starts_with(first)
        && token
            .chars()
            .all(|c| first(c) || c.is_ascii_digit() || c == '-')
}

/// What may be said of names of sections.
pub(super) fn is_pattern(token: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "_.$-+~*?[]!^".contains(c);
    !token.is_empty() && token != "COMMON" && token.chars().all(is_known)
}

/// Words, and punctuation of one character each, with their lines; or the line of what does not end, and what it is. What is quoted and is no
/// name keeps its quotes.
pub(super) fn tokens(text: &str) -> Result<Vec<(String, usize)>, (usize, &'static str)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let is_end = |c: char| c.is_whitespace() || "{}();:=,\"".contains(c);
    while let Some(c) = rest.chars().next() {
        let (token, after) = if let Some(comment) = rest.strip_prefix("/*") {
            let end = comment.split_once("*/");
            let (_, after) = end.ok_or((line, "a comment without an end"))?;
            (None, after)
        } else if c.is_whitespace() {
            (None, &rest[c.len_utf8()..])
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.split_once('"');
            let (inside, after) = end.ok_or((line, "a quoted name without an end"))?;
            let with_quotes = &rest[..rest.len() - after.len()];
            (
                Some(if is_name(inside) { inside } else { with_quotes }),
                after,
            )
        } else if is_end(c) {
            let (token, after) = rest.split_at(c.len_utf8());
            (Some(token), after)
        } else {
            let (token, after) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
            (Some(token), after)
        };
        tokens.extend(token.map(|token| (token.to_owned(), line)));
        let read = &rest[..rest.len() - after.len()];
        line += read.matches('\n').count();
        rest = after;
    }
    Ok(tokens)
}
