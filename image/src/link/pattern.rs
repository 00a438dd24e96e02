//! Patterns of names, as a shell has them: `*`, `?`, `[a-z]`, `[!a-z]`, and `\\` before what stands for itself.

/// True when all of `text` is as `pattern` says.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The last star, and how far the text was looked at behind it.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if let Some(next) = text.get(t).and_then(|byte| one(pattern, p, *byte)) {
            (p, t) = (next, t + 1);
            continue;
        }
        match star {
            Some((at, from)) if from < text.len() => {
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
            _ => return false,
        }
    }
}

/// Where the pattern goes on behind what stands for `byte` at `at`, if it does.
fn one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => match class(pattern, at + 1, byte) {
            Some((is_in, end)) => is_in.then_some(end),
            // It has no end, so it stands for itself.
            None => (byte == b'[').then_some(at + 1),
        },
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        own => (own == byte).then_some(at + 1),
    }
}

/// Whether a class of characters that begins at `at` has `byte`, and where it ends.
fn class(pattern: &[u8], mut at: usize, byte: u8) -> Option<(bool, usize)> {
    let is_other = matches!(pattern.get(at)?, b'!' | b'^');
    at += usize::from(is_other);
    let first = at;
    let mut is_in = false;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((is_in != is_other, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                is_in |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                is_in |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    #[test]
    fn patterns_are_read_as_a_shell_has_them() {
        for (pattern, text, expected) in [
            ("*foo*", ".data.foo.1", true),
            ("*foo*", "foo", true),
            ("*foo", "foo.1", false),
            (".text.*[ab]?", ".text.x.ax", true),
            (".text.[!a-c]", ".text.b", false),
            (".text.[^a-c]", ".text.d", true),
            ("[]x]", "]", true),
            ("a[b", "a[b", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("*a*b*c", "xaybzbc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_has_an_answer(pattern in "[]*?a\\[!^-]{0,30}", text in "[]a*!-]{0,30}") {
            matches(&pattern, &text);
        }
    }
}
