//! Checkpoints: written whole or not at all, found by their names, and what goes once there is a newer one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::frame;
use super::names::{self, Name};
use super::read::{Flaw, list};
use crate::backend::{remove_if_there, sync_directory};
use crate::catalogue::{Catalogue, Entry, Header, Writer};
use crate::error::{Result, StoreError};
use crate::index::Reader;
use crate::now;

/// What to do about a damaged checkpoint.
const CHECKPOINT_ADVICE: &str = "pool repair makes a new one of a whole index";

/// Writes checkpoints of one journal.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    pub(super) directory: PathBuf,
    pub(super) identity: [u8; 16],
    pub(super) segment_bytes: u64,
    /// Number of the last commit before the log that goes on.
    pub(super) last: u64,
}

impl Checkpointer {
    /// Writes a checkpoint of `state`, and removes what is not needed any more. Answers with its commits and bytes.
    pub(crate) fn write(&self, state: &Reader<'_>) -> Result<(u64, u64)> {
        self.make_room();
        let written = write_checkpoint(&self.directory, self.identity, self.segment_bytes, state)?;
        prune(&self.directory, written.0);
        Ok(written)
    }

    /// Removes checkpoints that are not whole, which an attempt has left that could not even remove them: beside the next one they would be
    /// a third copy. Logs that are not whole may be somebody's who commits meanwhile.
    pub(super) fn make_room(&self) {
        remove_unfinished(&self.directory, |name| matches!(name, Name::Checkpoint(_)));
    }
}

/// Removes what a stop has left in a journal that was not whole yet, for who alone may write there. Nothing refers to it, and files whose
/// names are no such stay.
pub(crate) fn clear_away(directory: &Path) {
    remove_unfinished(directory, |_| true);
}

fn remove_unfinished(directory: &Path, is_meant: impl Fn(Name) -> bool) {
    let unfinished = match names::list_unfinished(directory) {
        Ok(listed) => listed,
        // A store without a journal gets one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(%error, "unfinished parts of the journal stay for now");
            return;
        }
    };
    for name in unfinished.into_iter().filter(|name| is_meant(*name)) {
        let path = names::unfinished(directory, name);
        match remove_if_there(&path) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "removed an unfinished part of the journal");
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "an unfinished part of the journal stays for now");
            }
        }
    }
}

/// Writes a checkpoint of `state`, whole or not at all. Answers with its commits and bytes.
pub(super) fn write_checkpoint(
    directory: &Path,
    identity: [u8; 16],
    segment_bytes: u64,
    state: &Reader<'_>,
) -> Result<(u64, u64)> {
    let header = Header {
        segment_bytes,
        identity,
        commits: state.commits()?,
        frame: frame::shortened(state.last_frame()?),
        begun_at: now(),
    };
    let bytes = write_catalogue(directory, &header, |catalogue| {
        state.each_raw_segment(|key, value| catalogue.put(Entry::Segment, key, value))?;
        state.each_kept_raw(|kept, key, value| catalogue.put(Entry::Kept(kept), key, value))
    })?;
    Ok((header.commits, bytes))
}

/// Writes a checkpoint with what `fill` puts, whole or not at all. Answers with its bytes.
pub(super) fn write_catalogue(
    directory: &Path,
    header: &Header,
    fill: impl FnOnce(&mut Writer) -> Result<()>,
) -> Result<u64> {
    let name = Name::Checkpoint(header.commits);
    let (new, path) = (
        names::unfinished(directory, name),
        names::path(directory, name),
    );
    let write = || {
        let mut catalogue = Writer::create(&new, header)?;
        fill(&mut catalogue)?;
        let bytes = catalogue.finish()?;
        fs::rename(&new, &path).map_err(|error| StoreError::io("naming", &new, error))?;
        sync_directory(directory)?;
        Ok(bytes)
    };
    write().inspect_err(|_| {
        // On a full disk it is room.
        if let Err(error) = fs::remove_file(&new) {
            tracing::debug!(%error, path = %new.display(), "leaving half a checkpoint");
        }
    })
}

/// Removes logs that end with the checkpoint of commit `commits` or before it, then earlier checkpoints, the oldest first.
pub(super) fn prune(directory: &Path, commits: u64) {
    let (bases, checkpoints) = match names::list(directory) {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(%error, "old parts of the journal stay for now");
            return;
        }
    };
    // A log ends where the next one begins.
    let logs = bases.windows(2).filter(|two| two[1] <= commits);
    let logs = logs.map(|two| Name::Log(two[0]));
    let older = checkpoints.iter().filter(|number| **number < commits);
    let older = older.map(|number| Name::Checkpoint(*number));
    for name in logs.chain(older) {
        let path = names::path(directory, name);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "an old part of the journal stays for now");
            // Nothing newer goes before it.
            return;
        }
    }
}

/// Number of the newest checkpoint, which must be between the first and the last commit of the logs.
pub(super) fn newest_checkpoint(
    directory: &Path,
    checkpoints: &[u64],
    first: u64,
    last: u64,
) -> std::result::Result<u64, Flaw> {
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
pub(super) fn newest_number(directory: &Path) -> std::result::Result<u64, Flaw> {
    let (_, checkpoints) = list(directory)?;
    let newest = checkpoints.last().copied();
    newest.ok_or_else(|| Flaw::new(directory, "has no checkpoint"))
}

/// Compares a checkpoint's header with its name. Answers with its bytes.
pub(super) fn check_checkpoint(
    directory: &Path,
    identity: [u8; 16],
    commits: u64,
) -> std::result::Result<u64, Flaw> {
    let path = names::path(directory, Name::Checkpoint(commits));
    let header = Catalogue::peek(&path).map_err(|error| unreadable(&path, &error))?;
    check_header(&path, &header, identity, commits)?;
    let length = fs::metadata(&path).map(|found| found.len());
    length.map_err(|error| Flaw::new(&path, format!("cannot be read ({error})")))
}

fn check_header(
    path: &Path,
    header: &Header,
    identity: [u8; 16],
    commits: u64,
) -> std::result::Result<(), Flaw> {
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
pub(super) fn open_checkpoint(
    directory: &Path,
    identity: [u8; 16],
    commits: u64,
) -> std::result::Result<Catalogue, Flaw> {
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
) -> std::result::Result<Catalogue, String> {
    open_checkpoint(directory, identity, commits).map_err(|flaw| flaw.told())
}

/// A checkpoint that is not compared with its digest: it may be damaged.
pub(crate) fn unread_checkpoint(directory: &Path, commits: u64) -> Result<Catalogue> {
    let path = names::path(directory, Name::Checkpoint(commits));
    let found = Catalogue::open_unread(&path, CHECKPOINT_ADVICE)?;
    found.ok_or_else(|| StoreError::io("opening", path, io::ErrorKind::NotFound.into()))
}
