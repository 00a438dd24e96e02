//! What the files of a journal are called.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// A file of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A log; the number of the commit before its first.
    Log(u64),
    /// A checkpoint; the number of its last commit.
    Checkpoint(u64),
}

pub(super) fn path(directory: &Path, name: Name) -> PathBuf {
    directory.join(match name {
        Name::Log(base) => format!("{base:016x}.log"),
        Name::Checkpoint(commits) => format!("{commits:016x}.checkpoint"),
    })
}

/// Where a file is made before it has its name.
pub(super) fn unfinished(directory: &Path, name: Name) -> PathBuf {
    let mut path = path(directory, name).into_os_string();
    path.push(".new");
    path.into()
}

pub(super) fn parse(name: &OsStr) -> Option<Name> {
    let (number, end) = name.to_str()?.split_once('.')?;
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if number.len() != 16 || !number.bytes().all(is_digit) {
        return None;
    }
    let number = u64::from_str_radix(number, 16).ok()?;
    match end {
        "log" => Some(Name::Log(number)),
        "checkpoint" => Some(Name::Checkpoint(number)),
        _ => None,
    }
}

/// Bases of the logs in a directory and numbers of its checkpoints, in order. Files of other names are nobody's, and so are
/// directories, whatever they are called.
pub(super) fn list(directory: &Path) -> io::Result<(Vec<u64>, Vec<u64>)> {
    let (mut bases, mut checkpoints) = (Vec::new(), Vec::new());
    for entry in directory.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            continue;
        }
        match parse(&entry.file_name()) {
            Some(Name::Log(base)) => bases.push(base),
            Some(Name::Checkpoint(commits)) => checkpoints.push(commits),
            None => {}
        }
    }
    bases.sort_unstable();
    checkpoints.sort_unstable();
    Ok((bases, checkpoints))
}

/// What [`unfinished`] was told to give this name.
pub(super) fn parse_unfinished(name: &OsStr) -> Option<Name> {
    parse(OsStr::new(name.to_str()?.strip_suffix(".new")?))
}

/// The files of a directory that [`unfinished`] names. Directories are nobody's, whatever they are called.
pub(super) fn list_unfinished(directory: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        if let Some(name) = parse_unfinished(&entry.file_name())
            && !entry.file_type()?.is_dir()
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_journal_are_told_from_others() {
        let directory = Path::new("journal");
        for name in [Name::Log(0xab), Name::Checkpoint(u64::MAX)] {
            let is = path(directory, name);
            assert_eq!(parse(is.file_name().unwrap()), Some(name));
            let made = unfinished(directory, name);
            assert_eq!(parse(made.file_name().unwrap()), None);
            assert_eq!(parse_unfinished(made.file_name().unwrap()), Some(name));
        }
        assert_eq!(
            path(directory, Name::Log(0xab)),
            Path::new("journal/00000000000000ab.log")
        );
        for name in [
            "ab.log",
            "00000000000000AB.log",
            "00000000000000ab.txt",
            "x",
        ] {
            assert_eq!(parse(OsStr::new(name)), None, "{name}");
            let made = format!("{name}.new");
            assert_eq!(parse_unfinished(OsStr::new(&made)), None, "{made}");
            assert_eq!(parse_unfinished(OsStr::new(name)), None, "{name}");
        }
    }
}
