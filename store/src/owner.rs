//! Whose segments they are.
//!
//! A store's segments may lie elsewhere: their directory can be a link, or a mount. One of another store there has files of the same names
//! and sizes, which would be appended to, moved aside and collected. So the directory has a note with the store's identity, and who
//! writes to segments holds the directory locked: a copy of a store that was made with the link has the same identity.

use std::fs::File;
use std::io;
use std::path::Path;

use pool_core::digest::ObjectId;

use crate::directory;
use crate::error::Result;
use crate::format::{NEW_OWNER_FILE, OWNER_FILE, SEGMENTS_DIRECTORY};
use crate::small_file;

/// Identity of a store.
type Owner = [u8; 16];

/// Digits of the digest behind an identity: one that the disk has changed is no other store's.
const CHECKED: usize = 16;

/// Keeps others from writing to the segments of the store in `directory`, whose own directory is locked.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    directory::lock(&directory.join(SEGMENTS_DIRECTORY))
}

/// Refuses, in words, segments that another store has. Those that nobody has noted anything of are taken.
pub(crate) fn check(directory: &Path, identity: Owner) -> std::result::Result<(), String> {
    let path = directory.join(SEGMENTS_DIRECTORY).join(OWNER_FILE);
    let found = read(&path).map_err(|error| {
        format!("whose its segments are cannot be read ({}: {error}): check the disk, or move that file away if they are this store's", path.display())
    })?;
    match found {
        Some(found) if found != identity => Err(format!(
            "its segments are another store's, as {} says: put its own back, or mount what holds them, or remove that file if it is known to be wrong",
            path.display()
        )),
        _ => Ok(()),
    }
}

/// Notes that the segments are this store's, and waits until that survives a power cut.
pub(crate) fn note(directory: &Path, identity: Owner) -> Result<()> {
    let segments = directory.join(SEGMENTS_DIRECTORY);
    let path = segments.join(OWNER_FILE);
    if read(&path).is_ok_and(|found| found == Some(identity)) {
        return Ok(());
    }
    let new = segments.join(NEW_OWNER_FILE);
    small_file::replace_durably(&path, &new, encode(identity).as_bytes())
}

/// `None` when there is none, or none that is whole.
fn read(path: &Path) -> io::Result<Option<Owner>> {
    match small_file::read(path) {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(owner: Owner) -> String {
    let identity = format!("{:032x}", u128::from_be_bytes(owner));
    let digest = ObjectId::of(identity.as_bytes()).to_string();
    format!("{identity} {}\n", &digest[..CHECKED])
}

fn decode(bytes: &[u8]) -> Option<Owner> {
    let digits = std::str::from_utf8(bytes.get(..32)?).ok()?;
    let owner = u128::from_str_radix(digits, 16).ok()?.to_be_bytes();
    (encode(owner).as_bytes() == bytes).then_some(owner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    const MINE: Owner = [0xab; 16];

    #[test]
    fn a_note_is_read_whole_or_not_at_all() {
        let text = encode(MINE);
        assert_eq!(text.len(), 32 + 1 + CHECKED + 1);
        assert_eq!(decode(text.as_bytes()), Some(MINE));
        for nth in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[nth] ^= 1 << bit;
                assert_eq!(decode(&bytes), None, "{nth} {bit}");
            }
            assert_eq!(decode(&text.as_bytes()[..nth]), None);
        }
        assert_eq!(decode(format!("{text}x").as_bytes()), None);
    }

    #[test]
    fn segments_without_a_note_are_taken_and_those_of_another_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let segments = directory.path().join(SEGMENTS_DIRECTORY);
        fs::create_dir(&segments).unwrap();
        check(directory.path(), MINE).unwrap();
        note(directory.path(), MINE).unwrap();
        check(directory.path(), MINE).unwrap();
        let said = check(directory.path(), [1; 16]).unwrap_err();
        assert!(said.contains("another store's"), "{said}");
        let path = segments.join(OWNER_FILE);
        fs::write(&path, "something else").unwrap();
        check(directory.path(), [1; 16]).unwrap();
        note(directory.path(), MINE).unwrap();
        check(directory.path(), MINE).unwrap();
        // Nobody waits for what comes through a pipe.
        fs::remove_file(&path).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let said = check(directory.path(), MINE).unwrap_err();
        assert!(said.contains("it is not a file"), "{said}");
    }
}
