//! Taking from a journal what can be had of it, whatever else of it is damaged.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use super::frame::{self, DIGEST, Digest, Form, HEAD, HEADER, Header, each_change};
use super::log::{PIECE, Place, next_frame, read_up_to};
use super::names::{self, Name};
use super::read::{examine, list};
use crate::backend::{next_data, read_file};
use crate::index::{Kept, Recorded};

/// Commits of a journal: number, digest and changes of each.
pub(crate) type Commits = Vec<(u64, Digest, Vec<u8>)>;

/// The commits that follow commit `number`, whose frame comes to `digest`, whatever else of the journal is damaged: each
/// frame proves that it follows the one before it. `Err` says in words what cannot be read.
pub(crate) fn following(
    directory: &Path,
    mut number: u64,
    mut digest: Digest,
) -> Result<Commits, String> {
    let (bases, _) = list(directory).map_err(|flaw| flaw.told())?;
    let mut all = Commits::new();
    for base in bases {
        let path = names::path(directory, Name::Log(base));
        let found = read_file(&path).and_then(|file| following_in(&file, number, &digest));
        let found =
            found.map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
        if let Some((last, reached, _)) = found.last() {
            (number, digest) = (*last, *reached);
        }
        all.extend(found);
    }
    Ok(all)
}

/// The commits that follow, of one log.
fn following_in(file: &File, number: u64, digest: &Digest) -> io::Result<Commits> {
    let mut found = Commits::new();
    let mut bytes = [0; HEADER];
    let read = read_up_to(file, &mut bytes, 0)?;
    let header = Header::decode(&bytes).ok().filter(|_| read == HEADER);
    let form = header.map(|header| header.form);
    let (mut at, mut digest) = match header {
        // It begins with the next commit.
        Some(header) if header.base == number && header.previous == *digest => {
            (HEADER as u64, frame::digest_of_header(&bytes))
        }
        _ => match find(file, digest)? {
            Some(at) => (at + DIGEST as u64, *digest),
            None => return Ok(found),
        },
    };
    let length = file.metadata()?.len();
    let mut from = BufReader::with_capacity(PIECE, file);
    from.seek(SeekFrom::Start(at))?;
    let (mut last, mut body) = (number, Vec::new());
    loop {
        let place = Place {
            last,
            digest: &digest,
            at,
            length,
        };
        let Some(reached) = next_frame(file, &mut from, &place, &mut body)? else {
            return Ok(found);
        };
        at += (HEAD + body.len() + DIGEST) as u64;
        let form = form.unwrap_or_else(|| Form::guess(&body));
        let Some(changes) = form.changes(&mut body) else {
            return Ok(found);
        };
        (last, digest) = (last.wrapping_add(1), reached);
        found.push((last, digest, changes.to_vec()));
    }
}

/// Where a digest is first, however long the file is. That of no commit is nowhere.
fn find(file: &File, digest: &Digest) -> io::Result<Option<u64>> {
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    while *digest != Digest::default()
        && let Some(data) = next_data(file, offset)?
    {
        // It may begin in a hole.
        let from = offset.max(data.saturating_sub(DIGEST as u64 - 1));
        let read = read_up_to(file, &mut piece, from)?;
        if read < DIGEST {
            break;
        }
        let mut places = piece[..read].windows(DIGEST);
        if let Some(at) = places.position(|bytes| bytes == digest) {
            return Ok(Some(from + at as u64));
        }
        offset = from + (read - DIGEST + 1) as u64;
    }
    Ok(None)
}

/// The number of the next segment by all that can be read of the journal in `directory` of the store `identity`: larger than any
/// that it has.
pub(crate) fn next_segment(directory: &Path, identity: [u8; 16]) -> u64 {
    let mut next = 0;
    let mut note = |what: Recorded, key: &[u8], value: &[u8]| {
        let number = match what {
            Recorded::Segment => key.try_into().ok().map(u32::from_be_bytes),
            Recorded::Kept(Kept::Meta) => {
                next = next.max(Kept::next_segment(key, value).unwrap_or(0));
                None
            }
            Recorded::Kept(_) => None,
        };
        next = next.max(number.map_or(0, |number| u64::from(number) + 1));
    };
    let found = examine(directory, identity, u64::MAX, false, |_, _, changes| {
        let _: Result<bool, Infallible> = each_change(changes, |change| {
            if let Some(what) = Recorded::of(&change) {
                note(what, change.key, change.value.unwrap_or_default());
            }
            Ok(())
        });
    });
    let checkpoint = found.checkpoint.map(|checkpoint| {
        checkpoint.each(|entry, key, value| {
            if let Some(what) = entry.recorded() {
                note(what, key, value);
            }
            Ok(())
        })
    });
    if !matches!(checkpoint, Some(Ok(()))) {
        tracing::warn!(path = %directory.display(), "a checkpoint tells nothing of segments");
    }
    next
}
