//! The members of a static library file (`ar`), regular or thin.
//!
//! A library is taken whole, so symbol tables are passed over. Read here rather than by goblin,
//! which insists on a well-formed symbol table, knows no thin archives and finds members by
//! name, although names may repeat. Format: the System V ABI's `ar.h` with GNU's name table
//! (`//`, `/OFFSET`) and BSD's long names (`#1/LENGTH`).

use std::ops::Range;

use super::error::LinkError;

/// First bytes of a regular archive.
pub(super) const MAGIC: &[u8] = b"!<arch>\n";
/// First bytes of a thin archive, whose members are files beside it.
pub(super) const THIN_MAGIC: &[u8] = b"!<thin>\n";
const HEADER_SIZE: usize = 60;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name; in a thin archive its path, relative to the archive's folder.
    pub(super) name: String,
    /// Where its bytes are in the archive, or `None` in a thin one.
    pub(super) bytes: Option<Range<usize>>,
}

/// The members of the archive `bytes`, in order, without symbol and name tables.
pub(super) fn members(file: &str, bytes: &[u8]) -> Result<Vec<Member>, LinkError> {
    let damaged = |at: usize, problem: &str| {
        LinkError::input(
            file,
            format!("damaged archive: {problem} at offset {at}; build it again"),
        )
    };
    let thin = bytes.starts_with(THIN_MAGIC);
    let mut names: &[u8] = &[];
    let mut members = Vec::new();
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let header = bytes
            .get(at..at + HEADER_SIZE)
            .ok_or_else(|| damaged(at, "truncated member header"))?;
        if &header[58..60] != b"`\n" {
            return Err(damaged(at, "no member header"));
        }
        let field = std::str::from_utf8(&header[..16])
            .map_err(|_| damaged(at, "unreadable member name"))?
            .trim_end();
        let size: usize = std::str::from_utf8(&header[48..58])
            .ok()
            .and_then(|text| text.trim_end().parse().ok())
            .ok_or_else(|| damaged(at, "unreadable member size"))?;
        let start = at + HEADER_SIZE;
        let is_table = matches!(field, "/" | "//" | "/SYM64/") || field.starts_with("__.SYMDEF");
        let stored = if thin && !is_table { 0 } else { size };
        let end = start
            .checked_add(stored)
            .filter(|end| *end <= bytes.len())
            .ok_or_else(|| damaged(at, "member larger than the file"))?;
        match field {
            "//" => names = &bytes[start..end],
            _ if is_table => {}
            _ => {
                let (name, skipped) = member_name(field, names, &bytes[start..end])
                    .ok_or_else(|| damaged(at, "member name outside the name table"))?;
                if !name.starts_with("__.SYMDEF") {
                    members.push(Member {
                        name,
                        bytes: (!thin).then_some(start + skipped..end),
                    });
                }
            }
        }
        at = end + end % 2;
    }
    Ok(members)
}

/// A member's name, and how many bytes of its contents hold the name.
fn member_name(field: &str, names: &[u8], contents: &[u8]) -> Option<(String, usize)> {
    if let Some(length) = field.strip_prefix("#1/") {
        let length: usize = length.parse().ok()?;
        let name = std::str::from_utf8(contents.get(..length)?).ok()?;
        return Some((name.trim_end_matches('\0').to_owned(), length));
    }
    if let Some(offset) = field.strip_prefix('/') {
        let rest = names.get(offset.parse::<usize>().ok()?..)?;
        let end = rest.iter().position(|b| *b == b'\n')?;
        let name = std::str::from_utf8(&rest[..end]).ok()?;
        return Some((name.trim_end_matches('/').to_owned(), 0));
    }
    Some((field.trim_end_matches('/').to_owned(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(name: &str, contents: &[u8]) -> Vec<u8> {
        let mut bytes = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            "644",
            contents.len()
        )
        .into_bytes();
        bytes.extend_from_slice(contents);
        if contents.len() % 2 == 1 {
            bytes.push(b'\n');
        }
        bytes
    }

    fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
        [MAGIC.to_vec(), parts.concat()].concat()
    }

    #[test]
    fn names_of_each_kind_are_read() {
        let bytes = archive(&[
            member("/", b"symbols"),
            member("//", b"a_rather_long_name.o/\n"),
            member("short.o/", b"abc"),
            member("/0", b"long"),
            member("#1/8", b"bsd.o\0\0\0rest"),
            member("short.o/", b"again"),
        ]);
        let found: Vec<(String, &[u8])> = members("x.a", &bytes)
            .unwrap()
            .into_iter()
            .map(|m| (m.name, &bytes[m.bytes.unwrap()]))
            .collect();
        let expected: [(&str, &[u8]); 4] = [
            ("short.o", b"abc"),
            ("a_rather_long_name.o", b"long"),
            ("bsd.o", b"rest"),
            ("short.o", b"again"),
        ];
        assert_eq!(
            found,
            expected.map(|(name, contents)| (name.to_owned(), contents))
        );
    }

    #[test]
    fn damaged_archives_are_refused() {
        let good = archive(&[member("a.o/", b"abcdef")]);
        let mut huge = good.clone();
        huge[8 + 48..8 + 58].copy_from_slice(b"9999999999");
        let mut unreadable = good.clone();
        unreadable[8 + 48] = b'x';
        let no_table = archive(&[member("/7", b"x")]);
        for bad in [
            &good[..good.len() - 1],
            &good[..20],
            &huge,
            &unreadable,
            &no_table,
        ] {
            assert!(matches!(members("x.a", bad), Err(LinkError::Input { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(noise in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200) {
            let mut bytes = archive(&[member("//", b"name.o/\n"), member("/0", b"abc"), member("#1/2", b"abcd")]);
            for (offset, byte) in noise.iter().enumerate() {
                if let Some(place) = bytes.get_mut(8 + at + offset) { *place = *byte; }
            }
            if let Ok(found) = members("x.a", &bytes) {
                for member in found {
                    prop_assert!(member.bytes.is_none_or(|range| bytes.get(range).is_some()));
                }
            }
        }
    }
}
