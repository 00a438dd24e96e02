//! Reading a journal: is it whole, how far does it go, and what ended it?
//!
//! A stop leaves at most one frame that is not whole, the last one, and nobody was told of it. So what is not whole and has whole
//! frames behind it was damaged. They are found wherever they begin: the digest that a frame follows is the 32 bytes before it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::frame::{self, DIGEST, Digest, HEAD, HEADER, Header};
use super::names::{self, Name};
use crate::backend::read_file;
use crate::catalogue::Catalogue;

/// A journal that was found whole.
#[derive(Debug)]
pub(crate) struct Found {
    /// Commits that the newest checkpoint has. Only its header was looked at.
    pub(crate) checkpoint: u64,
    /// Bytes of that.
    pub(crate) checkpoint_bytes: u64,
    /// Number of the commit before the first one in the logs.
    pub(crate) first: u64,
    /// Digest of that commit; zeros where it is not known.
    pub(crate) previous: Digest,
    /// Number of the last commit.
    pub(crate) last: u64,
    /// Digest of that.
    pub(crate) digest: Digest,
    /// Bytes of frames in all logs.
    pub(super) logged: u64,
    /// The newest log.
    pub(super) newest: Log,
}

/// A log as far as it is whole.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) header: Header,
    /// Number of the last whole frame, the base without any.
    last: u64,
    /// Digest that the next frame follows.
    pub(super) digest: Digest,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Bytes of the file.
    length: u64,
    /// What is left of a frame is behind the last whole one.
    pub(super) torn: bool,
    /// Number of a whole frame behind what is not whole.
    beyond: Option<u64>,
}

/// Why a journal cannot be used.
#[derive(Debug)]
pub(crate) struct Unusable {
    /// In words.
    pub(crate) why: String,
    /// The last commit of which a whole frame was seen anywhere; 0 without any.
    pub(crate) seen: u64,
}

/// Reads the journal in `directory` of the store `identity`, and calls `visit` with the number, the digest and the changes of
/// each commit in order. Those of a journal that turns out to be unusable may be some of it.
pub(crate) fn read(
    directory: &Path,
    identity: [u8; 16],
    mut visit: impl FnMut(u64, &Digest, &[u8]),
) -> Result<Found, Unusable> {
    let (bases, checkpoints) = list(directory).map_err(|why| Unusable { why, seen: 0 })?;
    let mut seen = 0;
    let mut wrong: Option<String> = None;
    let mut logs: Vec<Log> = Vec::new();
    let mut logged = 0;
    for base in bases {
        let path = names::path(directory, Name::Log(base));
        let is_whole = wrong.is_none();
        let read = read_log(&path, |number, digest, changes| {
            seen = seen.max(number);
            if is_whole {
                visit(number, digest, changes);
            }
        });
        let checked = read.and_then(|log| {
            seen = seen.max(log.beyond.unwrap_or(0));
            check_log(&log, identity, base, logs.last())?;
            logged += log.end - HEADER as u64;
            logs.push(log);
            Ok(())
        });
        if let Err(why) = checked {
            wrong.get_or_insert(format!("{} {why}", path.display()));
        }
    }
    if let Some(why) = wrong {
        return Err(Unusable { why, seen });
    }
    let unusable = |why: String| Unusable { why, seen };
    let mut logs = logs.into_iter();
    let oldest = logs.next();
    let oldest = oldest.ok_or_else(|| unusable(format!("{} has no log", directory.display())))?;
    let (first, previous) = (oldest.header.base, oldest.header.previous);
    let newest = logs.next_back().unwrap_or(oldest);
    let newest_checkpoint = checkpoints.last().copied();
    let checkpoint = newest_checkpoint
        .ok_or_else(|| unusable(format!("{} has no checkpoint", directory.display())))?;
    let checkpoint_bytes = check_checkpoint(directory, identity, checkpoint)
        .and_then(|bytes| {
            if checkpoint < first || newest.last < checkpoint {
                let last = newest.last;
                let path = directory.display();
                return Err(format!(
                    "{path} has commits {} to {last} and a checkpoint of commit {checkpoint}: a log is \
                     missing",
                    first + 1
                ));
            }
            Ok(bytes)
        })
        .map_err(unusable)?;
    Ok(Found {
        checkpoint,
        checkpoint_bytes,
        first,
        previous,
        last: newest.last,
        digest: if newest.last == newest.header.base {
            newest.header.previous
        } else {
            newest.digest
        },
        logged,
        newest,
    })
}

/// Commits of a journal: number, digest and changes of each.
pub(crate) type Commits = Vec<(u64, Digest, Vec<u8>)>;

/// The commits that follow commit `number`, whose frame comes to `digest`, whatever else of the journal is damaged: each
/// frame proves that it follows the one before it. `Err` says in words what cannot be read.
pub(crate) fn following(
    directory: &Path,
    mut number: u64,
    mut digest: Digest,
) -> Result<Commits, String> {
    let (bases, _) = list(directory)?;
    let mut all = Commits::new();
    for base in bases {
        let path = names::path(directory, Name::Log(base));
        let bytes = read_file(&path).and_then(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes =
            bytes.map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
        let found = following_in(&bytes, number, &digest);
        if let Some((last, reached, _)) = found.last() {
            (number, digest) = (*last, *reached);
        }
        all.extend(found);
    }
    Ok(all)
}

/// The same, of one log.
fn following_in(log: &[u8], number: u64, digest: &Digest) -> Commits {
    let mut found = Commits::new();
    let header = log.first_chunk().and_then(|bytes: &[u8; HEADER]| {
        let header = Header::decode(bytes).ok()?;
        Some((header, frame::digest_of_header(bytes)))
    });
    let (mut at, mut previous) = match header {
        // It begins with the next commit.
        Some((header, own)) if header.base == number && header.previous == *digest => (HEADER, own),
        _ => match log.windows(DIGEST).position(|bytes| bytes == digest) {
            Some(at) => (at + DIGEST, *digest),
            None => return found,
        },
    };
    let mut next = number.checked_add(1);
    while let Some((head, rest)) = log.get(at..).and_then(|left| left.split_at_checked(HEAD))
        && let Some((length, number)) = frame::parse_head(head)
        && next == Some(number)
        && let Some((changes, rest)) = rest.split_at_checked(length)
        && let Some(expected) = rest.first_chunk::<DIGEST>()
        && frame::digest(&previous, head, changes) == *expected
    {
        found.push((number, *expected, changes.to_vec()));
        previous = *expected;
        at += HEAD + length + DIGEST;
        next = number.checked_add(1);
    }
    found
}

/// Bases of logs and numbers of checkpoints, in order. Files of other names are nobody's.
fn list(directory: &Path) -> Result<(Vec<u64>, Vec<u64>), String> {
    let failed = |error: io::Error| {
        let path = directory.display();
        if error.kind() == io::ErrorKind::NotFound {
            format!("{path} is not there")
        } else {
            format!("{path} cannot be read ({error})")
        }
    };
    let (mut bases, mut checkpoints) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory).map_err(failed)? {
        match names::parse(&entry.map_err(failed)?.file_name()) {
            Some(Name::Log(base)) => bases.push(base),
            Some(Name::Checkpoint(commits)) => checkpoints.push(commits),
            None => {}
        }
    }
    bases.sort_unstable();
    checkpoints.sort_unstable();
    Ok((bases, checkpoints))
}

fn check_log(log: &Log, identity: [u8; 16], base: u64, before: Option<&Log>) -> Result<(), String> {
    let header = &log.header;
    if header.identity != identity {
        return Err("belongs to another store".into());
    }
    if header.base != base {
        return Err("has the name of another log".into());
    }
    if before.is_some_and(|before| before.last != base || before.last_digest() != header.previous) {
        return Err("does not go on where the log before it ends".into());
    }
    match log.beyond {
        Some(number) => Err(format!(
            "is damaged after commit {}, and commit {number} is behind that",
            log.last
        )),
        None => Ok(()),
    }
}

impl Log {
    /// Digest of the last commit.
    fn last_digest(&self) -> Digest {
        if self.last == self.header.base {
            self.header.previous
        } else {
            self.digest
        }
    }
}

/// Compares a checkpoint's header with its name. Answers with its bytes.
fn check_checkpoint(directory: &Path, identity: [u8; 16], commits: u64) -> Result<u64, String> {
    let path = names::path(directory, Name::Checkpoint(commits));
    let header = Catalogue::peek(&path).map_err(|error| error.to_string())?;
    if header.identity != identity {
        return Err(format!("{} belongs to another store", path.display()));
    }
    if header.commits != commits {
        let path = path.display();
        return Err(format!("{path} has the name of another checkpoint"));
    }
    let length = fs::metadata(&path).map(|found| found.len());
    length.map_err(|error| format!("{} cannot be read ({error})", path.display()))
}

/// The newest checkpoint, read to its end; otherwise what is wrong with it.
pub(crate) fn checkpoint(directory: &Path, commits: u64) -> Result<Catalogue, String> {
    let path = names::path(directory, Name::Checkpoint(commits));
    match Catalogue::open(&path, "pool repair makes a new one of a whole index") {
        Ok(Some(catalogue)) => Ok(catalogue),
        Ok(None) => Err(format!("{} is not there", path.display())),
        Err(error) => Err(error.to_string()),
    }
}

fn read_log(path: &Path, mut visit: impl FnMut(u64, &Digest, &[u8])) -> Result<Log, String> {
    let failed = |error: io::Error| format!("cannot be read ({error})");
    let file = read_file(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length < HEADER as u64 {
        return Err("is cut short".into());
    }
    let mut from = BufReader::with_capacity(1 << 20, &file);
    let mut header = [0; HEADER];
    from.read_exact(&mut header).map_err(failed)?;
    let mut log = Log {
        header: Header::decode(&header)?,
        last: 0,
        digest: frame::digest_of_header(&header),
        end: HEADER as u64,
        length,
        torn: false,
        beyond: None,
    };
    log.last = log.header.base;
    let mut changes = Vec::new();
    while let Some(digest) = next_frame(&mut from, &log, &mut changes).map_err(failed)? {
        log.end += (HEAD + changes.len() + DIGEST) as u64;
        log.last += 1;
        log.digest = digest;
        visit(log.last, &digest, &changes);
    }
    log.torn = !is_zero_from(&file, log.end).map_err(failed)?;
    if log.torn {
        // With the digest before it, which the first frame that is looked for may follow.
        let from = log.end - DIGEST as u64;
        let mut tail = vec![0; (length - from) as usize];
        file.read_exact_at(&mut tail, from).map_err(failed)?;
        log.beyond = last_whole(&tail, log.last);
    }
    Ok(log)
}

/// Reads the next frame of `log`, its changes into `changes`, and answers with its digest. `None` when there is no whole one.
fn next_frame(
    from: &mut impl Read,
    log: &Log,
    changes: &mut Vec<u8>,
) -> io::Result<Option<Digest>> {
    let left = log.length - log.end;
    if left < (HEAD + DIGEST) as u64 {
        return Ok(None);
    }
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let Some((length, number)) = frame::parse_head(&head) else {
        return Ok(None);
    };
    if number != log.last.wrapping_add(1) || left < (HEAD + length + DIGEST) as u64 {
        return Ok(None);
    }
    changes.resize(length, 0);
    from.read_exact(changes)?;
    let mut digest = [0; DIGEST];
    from.read_exact(&mut digest)?;
    let is_right = frame::digest(&log.digest, &head, changes) == digest;
    Ok(is_right.then_some(digest))
}

fn is_zero_from(file: &File, offset: u64) -> io::Result<bool> {
    let mut from = BufReader::with_capacity(256 << 10, file);
    from.seek(SeekFrom::Start(offset))?;
    let mut piece = vec![0; 256 << 10];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Ok(true);
        }
        if piece[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

/// The largest number above `last` of a whole frame in `tail`, which begins with a digest and then something that is none.
fn last_whole(tail: &[u8], last: u64) -> Option<u64> {
    let most = (tail.len() / (HEAD + DIGEST)) as u64;
    let mut found = None;
    let ends = tail.len().saturating_sub(HEAD + DIGEST);
    for at in DIGEST..=ends {
        let Some((length, number)) = frame::parse_head(&tail[at..][..HEAD]) else {
            continue;
        };
        let end = at + HEAD + length;
        if number <= last || number - last > most || end + DIGEST > tail.len() {
            continue;
        }
        let mut previous = [0; DIGEST];
        previous.copy_from_slice(&tail[at - DIGEST..at]);
        let digest = frame::digest(&previous, &tail[at..][..HEAD], &tail[at + HEAD..end]);
        if digest == tail[end..end + DIGEST] {
            found = found.max(Some(number));
        }
    }
    found
}
