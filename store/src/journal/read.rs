//! Reading a journal: is it whole, how far does it go, and what ended it?
//!
//! A stop leaves at most one frame that is not whole, the last one, and nobody was told of it. So what is not whole and has whole
//! frames behind it was damaged. They are found wherever they begin: the digest that a frame follows is the 32 bytes before it.
//! Up to a commit that the index has, every frame must be whole.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::frame::{self, DIGEST, Digest, Form, HEAD, HEADER, Header};
use super::names::{self, Name};
use crate::backend::{next_data, read_file};
use crate::catalogue::{Catalogue, Header as CatalogueHeader};
use crate::error::StoreError;

/// Bytes of a log that are looked at as one where it is not known how many there are.
pub(super) const PIECE: usize = 1 << 20;

/// What to do about a damaged checkpoint.
const CHECKPOINT_ADVICE: &str = "pool repair makes a new one of a whole index";

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
    path: PathBuf,
    pub(super) header: Header,
    /// Number of the last whole frame, the base without any.
    last: u64,
    /// Digest that the next frame follows.
    pub(super) digest: Digest,
    /// Where the last whole frame is; where the first one goes without any.
    pub(super) last_at: u64,
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

/// What is wrong with a file of a journal, or with its directory.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) path: PathBuf,
    /// From which byte on, where that is known.
    pub(crate) offset: Option<u64>,
    /// In words that go on after the path.
    pub(crate) why: String,
}

impl Flaw {
    fn new(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            offset: None,
            why: why.into(),
        }
    }

    /// In words.
    pub(crate) fn told(&self) -> String {
        format!("{} {}", self.path.display(), self.why)
    }
}

/// All logs of a journal, as far as each can be read.
#[derive(Debug, Default)]
struct Logs {
    /// Those that are whole and go on where the one before ends.
    whole: Vec<Log>,
    flaws: Vec<Flaw>,
    /// The last commit of which a whole frame was seen anywhere.
    seen: u64,
}

/// Reads the journal in `directory` of the store `identity`, and calls `visit` with the number, the digest and the changes of
/// each commit in order. Those of a journal that turns out to be unusable may be some of it.
pub(crate) fn read(
    directory: &Path,
    identity: [u8; 16],
    visit: impl FnMut(u64, &Digest, &[u8]),
) -> Result<Found, Unusable> {
    let (bases, checkpoints) = list(directory).map_err(|flaw| Unusable {
        why: flaw.told(),
        seen: 0,
    })?;
    let Logs { whole, flaws, seen } = read_logs(directory, identity, &bases, u64::MAX, visit);
    let unusable = |flaw: &Flaw| Unusable {
        why: flaw.told(),
        seen,
    };
    if let Some(flaw) = flaws.first() {
        return Err(unusable(flaw));
    }
    let logged = whole.iter().map(|log| log.end - HEADER as u64).sum();
    let mut logs = whole.into_iter();
    let oldest = logs.next();
    let oldest = oldest.ok_or_else(|| unusable(&Flaw::new(directory, "has no log")))?;
    let (first, previous) = (oldest.header.base, oldest.header.previous);
    let newest = logs.next_back().unwrap_or(oldest);
    let checkpoint = newest_checkpoint(directory, &checkpoints, first, newest.last)
        .map_err(|flaw| unusable(&flaw))?;
    let checkpoint_bytes =
        check_checkpoint(directory, identity, checkpoint).map_err(|flaw| unusable(&flaw))?;
    Ok(Found {
        checkpoint,
        checkpoint_bytes,
        first,
        previous,
        last: newest.last,
        digest: newest.last_digest(),
        logged,
        newest,
    })
}

/// What a journal has up to some commit.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) flaws: Vec<Flaw>,
    /// The newest checkpoint, if that is whole.
    pub(crate) checkpoint: Option<Catalogue>,
    /// Digest of the commit up to which it was read; zeros where it is not known, `None` where the logs do not tell.
    pub(crate) reached: Option<Digest>,
}

/// Reads all that the journal in `directory` of the store `identity` has up to the commit `limit`, which an index has: so all
/// of it must be whole. What is behind that is not looked at, as somebody may be writing there; a checkpoint of a later commit is
/// wrong only if `is_still`: nobody writes one meanwhile. Calls `visit` as [`read`] does.
pub(crate) fn examine(
    directory: &Path,
    identity: [u8; 16],
    limit: u64,
    is_still: bool,
    visit: impl FnMut(u64, &Digest, &[u8]),
) -> Examined {
    let mut examined = Examined {
        flaws: Vec::new(),
        checkpoint: None,
        reached: None,
    };
    let (bases, mut checkpoints) = match list(directory) {
        Ok(listed) => listed,
        Err(flaw) => {
            examined.flaws.push(flaw);
            return examined;
        }
    };
    if !is_still && checkpoints.first().is_some_and(|first| *first <= limit) {
        checkpoints.retain(|commits| *commits <= limit);
    }
    let Logs { whole, flaws, .. } = read_logs(directory, identity, &bases, limit, visit);
    examined.flaws = flaws;
    if examined.flaws.is_empty() {
        // Later ones were begun since.
        let last = whole.iter().rfind(|log| log.header.base <= limit);
        match last {
            Some(log) if log.last == limit => examined.reached = Some(log.last_digest()),
            Some(log) => examined.flaws.push(log.ends_early(directory, limit)),
            None => examined.flaws.push(Flaw::new(directory, "has no log")),
        }
    }
    let first = bases.first().copied().unwrap_or(0);
    let checkpoint = newest_checkpoint(directory, &checkpoints, first, limit)
        .and_then(|commits| open_checkpoint(directory, identity, commits));
    match checkpoint {
        Ok(checkpoint) => examined.checkpoint = Some(checkpoint),
        Err(flaw) => examined.flaws.push(flaw),
    }
    examined
}

/// Calls `visit` as [`read`] does with all commits up to `limit`, of logs that were found whole.
pub(crate) fn each_commit(
    directory: &Path,
    identity: [u8; 16],
    limit: u64,
    visit: impl FnMut(u64, &Digest, &[u8]),
) -> Result<(), Flaw> {
    let (bases, _) = list(directory)?;
    let logs = read_logs(directory, identity, &bases, limit, visit);
    logs.flaws.into_iter().next().map_or(Ok(()), Err)
}

/// Digest of the commit `number`, if the logs that are there tell.
pub(crate) fn digest_of(directory: &Path, identity: [u8; 16], number: u64) -> Option<Digest> {
    let (bases, _) = list(directory).ok()?;
    let logs = read_logs(directory, identity, &bases, number, |_, _, _| ());
    let mut logs = logs.whole.into_iter();
    let log = logs.rfind(|log| log.header.base <= number && log.last == number)?;
    Some(log.last_digest()).filter(|digest| *digest != Digest::default())
}

/// Reads logs, up to the commit `limit`, and compares each with the one before it.
fn read_logs(
    directory: &Path,
    identity: [u8; 16],
    bases: &[u64],
    limit: u64,
    mut visit: impl FnMut(u64, &Digest, &[u8]),
) -> Logs {
    let mut logs = Logs::default();
    for base in bases {
        let path = names::path(directory, Name::Log(*base));
        let is_whole = logs.flaws.is_empty();
        let mut seen = logs.seen;
        let read = read_log(&path, limit, |number, digest, changes| {
            seen = seen.max(number);
            if is_whole {
                visit(number, digest, changes);
            }
        });
        logs.seen = seen;
        let checked = read.and_then(|log| {
            logs.seen = logs.seen.max(log.beyond.unwrap_or(0));
            // After a flaw there is none before it to compare it with.
            let before = logs.whole.last().filter(|_| is_whole);
            check_log(&log, identity, *base, limit, before)?;
            Ok(log)
        });
        match checked {
            Ok(log) => logs.whole.push(log),
            Err(flaw) => logs.flaws.push(flaw),
        }
    }
    logs
}

/// Bases of logs and numbers of checkpoints, in order.
pub(super) fn list(directory: &Path) -> Result<(Vec<u64>, Vec<u64>), Flaw> {
    names::list(directory).map_err(|error| {
        let why = if error.kind() == io::ErrorKind::NotFound {
            "is not there".to_owned()
        } else {
            format!("cannot be read ({error})")
        };
        Flaw::new(directory, why)
    })
}

fn check_log(
    log: &Log,
    identity: [u8; 16],
    base: u64,
    limit: u64,
    before: Option<&Log>,
) -> Result<(), Flaw> {
    let header = &log.header;
    let flaw = |why: &str| Err(Flaw::new(&log.path, why));
    if header.identity != identity {
        return flaw("belongs to another store");
    }
    if header.base != base {
        return flaw("has the name of another log");
    }
    if let Some(before) = before
        && (before.last < base.min(limit) && before.torn)
    {
        return Err(before.is_damaged(format!("the next log begins after commit {base}")));
    }
    // The one before was not read to its end where that is behind the limit.
    let before = before.filter(|_| base <= limit);
    if before.is_some_and(|before| before.last != base || before.last_digest() != header.previous) {
        return flaw("does not go on where the log before it ends");
    }
    match log.beyond {
        Some(number) => Err(log.is_damaged(format!("commit {number} is behind that"))),
        None => Ok(()),
    }
}

impl Log {
    /// How its frames are written.
    pub(super) fn form(&self) -> Form {
        self.header.form
    }

    /// Where the next frame goes, if there is one.
    fn place(&self) -> Place<'_> {
        Place {
            last: self.last,
            digest: &self.digest,
            at: self.end,
            length: self.length,
        }
    }

    /// Digest of the last commit.
    fn last_digest(&self) -> Digest {
        if self.last == self.header.base {
            self.header.previous
        } else {
            self.digest
        }
    }

    /// It has a frame that is not whole, which is damage because of `why`.
    fn is_damaged(&self, why: impl std::fmt::Display) -> Flaw {
        let (last, offset) = (self.last, self.end);
        Flaw {
            offset: Some(offset),
            ..Flaw::new(
                &self.path,
                format!("is damaged after commit {last}, at byte {offset}, and {why}"),
            )
        }
    }

    /// It is the last one of the journal in `directory`, and `commits` were made.
    fn ends_early(&self, directory: &Path, commits: u64) -> Flaw {
        if self.torn {
            return self.is_damaged(format!("the index has {commits} commits"));
        }
        let last = self.last;
        Flaw::new(
            directory,
            format!("ends with commit {last}, and the index has {commits}"),
        )
    }
}

/// Number of the newest checkpoint, which must be between the first and the last commit of the logs.
fn newest_checkpoint(
    directory: &Path,
    checkpoints: &[u64],
    first: u64,
    last: u64,
) -> Result<u64, Flaw> {
    match checkpoints.last() {
        None => Err(Flaw::new(directory, "has no checkpoint")),
        Some(commits) if *commits < first || last < *commits => Err(Flaw::new(
            directory,
            format!(
                "has commits {} to {last} and a checkpoint of commit {commits}: a log is missing",
                first + 1
            ),
        )),
        Some(commits) => Ok(*commits),
    }
}

/// Number of the newest checkpoint, whatever the logs have.
pub(super) fn newest_number(directory: &Path) -> Result<u64, Flaw> {
    let (_, checkpoints) = list(directory)?;
    let newest = checkpoints.last().copied();
    newest.ok_or_else(|| Flaw::new(directory, "has no checkpoint"))
}

/// Compares a checkpoint's header with its name. Answers with its bytes.
fn check_checkpoint(directory: &Path, identity: [u8; 16], commits: u64) -> Result<u64, Flaw> {
    let path = names::path(directory, Name::Checkpoint(commits));
    let header = Catalogue::peek(&path).map_err(|error| unreadable(&path, &error))?;
    check_header(&path, &header, identity, commits)?;
    let length = fs::metadata(&path).map(|found| found.len());
    length.map_err(|error| Flaw::new(&path, format!("cannot be read ({error})")))
}

fn check_header(
    path: &Path,
    header: &CatalogueHeader,
    identity: [u8; 16],
    commits: u64,
) -> Result<(), Flaw> {
    if header.identity != identity {
        return Err(Flaw::new(path, "belongs to another store"));
    }
    if header.commits != commits {
        return Err(Flaw::new(path, "has the name of another checkpoint"));
    }
    Ok(())
}

/// What is wrong with a checkpoint, from an error about it.
fn unreadable(path: &Path, error: &StoreError) -> Flaw {
    match error {
        StoreError::Backup { why, .. } => Flaw::new(path, why),
        StoreError::Io { error, .. } => Flaw::new(path, format!("cannot be read ({error})")),
        other => Flaw::new(path, format!("cannot be read ({other})")),
    }
}

/// A checkpoint, read to its end.
fn open_checkpoint(directory: &Path, identity: [u8; 16], commits: u64) -> Result<Catalogue, Flaw> {
    let path = names::path(directory, Name::Checkpoint(commits));
    match Catalogue::open(&path, CHECKPOINT_ADVICE) {
        Ok(Some(catalogue)) => {
            check_header(&path, catalogue.header(), identity, commits)?;
            Ok(catalogue)
        }
        Ok(None) => Err(Flaw::new(path, "is not there")),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// The newest checkpoint of the store `identity`, read to its end; otherwise what is wrong with it.
pub(crate) fn checkpoint(
    directory: &Path,
    identity: [u8; 16],
    commits: u64,
) -> Result<Catalogue, String> {
    open_checkpoint(directory, identity, commits).map_err(|flaw| flaw.told())
}

/// A checkpoint that is not compared with its digest: it may be damaged.
pub(crate) fn unread_checkpoint(directory: &Path, commits: u64) -> crate::Result<Catalogue> {
    let path = names::path(directory, Name::Checkpoint(commits));
    let found = Catalogue::open_unread(&path, CHECKPOINT_ADVICE)?;
    found.ok_or_else(|| StoreError::io("opening", path, io::ErrorKind::NotFound.into()))
}

/// Reads a log up to the commit `limit`.
fn read_log(
    path: &Path,
    limit: u64,
    mut visit: impl FnMut(u64, &Digest, &[u8]),
) -> Result<Log, Flaw> {
    let failed = |error: io::Error| Flaw::new(path, format!("cannot be read ({error})"));
    let file = read_file(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length < HEADER as u64 {
        return Err(Flaw::new(path, "is cut short"));
    }
    let mut from = BufReader::with_capacity(1 << 20, &file);
    let mut header = [0; HEADER];
    from.read_exact(&mut header).map_err(failed)?;
    let mut log = Log {
        path: path.into(),
        header: Header::decode(&header).map_err(|why| Flaw {
            offset: Some(0),
            ..Flaw::new(path, why)
        })?,
        last: 0,
        digest: frame::digest_of_header(&header),
        last_at: HEADER as u64,
        end: HEADER as u64,
        length,
        torn: false,
        beyond: None,
    };
    log.last = log.header.base;
    let mut body = Vec::new();
    while log.last < limit
        && let Some(digest) =
            next_frame(&file, &mut from, &log.place(), &mut body).map_err(failed)?
    {
        let bytes = (HEAD + body.len() + DIGEST) as u64;
        let Some(changes) = log.header.form.changes(&mut body) else {
            break;
        };
        log.last_at = log.end;
        log.end += bytes;
        log.last += 1;
        log.digest = digest;
        visit(log.last, &digest, changes);
    }
    if log.last >= limit {
        return Ok(log);
    }
    log.torn = !is_zero_from(&file, log.end).map_err(failed)?;
    if log.torn {
        log.beyond = last_whole(&file, &log).map_err(failed)?;
    }
    Ok(log)
}

/// Where a frame may be.
pub(super) struct Place<'a> {
    /// Number of the commit before it.
    pub(super) last: u64,
    /// The digest that it follows.
    pub(super) digest: &'a Digest,
    /// Where it begins, which is not behind the end.
    pub(super) at: u64,
    /// Bytes of the file.
    pub(super) length: u64,
}

/// Reads the frame at a place of `file`, which `from` goes on with, its body into `body`, and answers with its digest. `None` when there
/// is no whole one.
pub(super) fn next_frame(
    file: &File,
    from: &mut impl Read,
    place: &Place<'_>,
    body: &mut Vec<u8>,
) -> io::Result<Option<Digest>> {
    let left = place.length - place.at;
    if left < (HEAD + DIGEST) as u64 {
        return Ok(None);
    }
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let Some((length, number)) = frame::parse_head(&head) else {
        return Ok(None);
    };
    if number != place.last.wrapping_add(1) || left < (HEAD + length + DIGEST) as u64 {
        return Ok(None);
    }
    // What a damaged head says is no reason to take as much memory.
    if length > PIECE && whole_at(file, place.at, place.digest, &head, length)?.is_none() {
        return Ok(None);
    }
    body.resize(length, 0);
    from.read_exact(body)?;
    let mut digest = [0; DIGEST];
    from.read_exact(&mut digest)?;
    let is_right = frame::digest(place.digest, &head, body) == digest;
    Ok(is_right.then_some(digest))
}

/// The digest of the frame at byte `at` of a log that begins with `head` and has a body of `length` bytes, if it is whole.
fn whole_at(
    file: &File,
    at: u64,
    previous: &Digest,
    head: &[u8],
    length: usize,
) -> io::Result<Option<Digest>> {
    let mut digest = [0; DIGEST];
    file.read_exact_at(&mut digest, at + (HEAD + length) as u64)?;
    // In a hole, which may be long.
    if digest == Digest::default() {
        return Ok(None);
    }
    let mut hasher = frame::hasher(previous, head);
    let mut from = at + HEAD as u64;
    let mut left = length;
    let mut piece = vec![0; length.min(PIECE)];
    while left > 0 {
        let piece = &mut piece[..left.min(PIECE)];
        file.read_exact_at(piece, from)?;
        hasher.update(piece);
        from += piece.len() as u64;
        left -= piece.len();
    }
    Ok((*hasher.finalize().as_bytes() == digest).then_some(digest))
}

/// Reads as much of `piece` as the file has from `offset` on.
pub(super) fn read_up_to(file: &File, piece: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < piece.len() {
        match file.read_at(&mut piece[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn is_zero_from(file: &File, mut offset: u64) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    while let Some(at) = next_data(file, offset)? {
        let read = read_up_to(file, &mut piece, at)?;
        if piece[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if read == 0 {
            break;
        }
        offset = at + read as u64;
    }
    Ok(true)
}

/// The largest number of a whole frame behind the last one of `log`, where something is that is none. It can begin at any byte;
/// the digest that it follows is before it.
fn last_whole(file: &File, log: &Log) -> io::Result<Option<u64>> {
    let most = (log.length - log.end) / (HEAD + DIGEST) as u64;
    let mut found = None;
    let mut piece = vec![0; PIECE];
    let mut offset = log.end;
    // A head is not zero to its end, so it may begin in a hole and is not all in one.
    while let Some(data) = next_data(file, offset)? {
        let from = offset.max(data.saturating_sub(HEAD as u64 - 1));
        let read = read_up_to(file, &mut piece, from)?;
        if read < HEAD {
            break;
        }
        for at in 0..=read - HEAD {
            let head = &piece[at..][..HEAD];
            let Some((length, number)) = frame::parse_head(head) else {
                continue;
            };
            let at = from + at as u64;
            let end = at + (HEAD + length + DIGEST) as u64;
            if number <= log.last || number - log.last > most || end > log.length {
                continue;
            }
            let mut previous = [0; DIGEST];
            file.read_exact_at(&mut previous, at - DIGEST as u64)?;
            if whole_at(file, at, &previous, head, length)?.is_some() {
                found = found.max(Some(number));
            }
        }
        offset = from + (read - HEAD + 1) as u64;
    }
    Ok(found)
}
