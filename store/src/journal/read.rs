//! Reading a journal: is it whole, how far does it go, and what ended it?
//!
//! A stop leaves at most one frame that is not whole, the last one, and nobody was told of it. So what is not whole and has whole
//! frames behind it was damaged. They are found wherever they begin: the digest that a frame follows is the 32 bytes before it.
//! Up to a commit that the index has, every frame must be whole.

use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::{check_checkpoint, newest_checkpoint, open_checkpoint};
use super::frame::{Digest, HEADER};
use super::log::{Log, read_log};
use super::names::{self, Name};
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
    pub(super) fn new(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
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
