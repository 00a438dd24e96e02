//! Opening a store: is this a store, does its index belong to it, is it all there?
//!
//! Everything is looked at before anything is changed. An index that is older than the journal is brought up from there; one that
//! is absent, empty, of another store or damaged is refused in words, and so is a journal that ends before the index does, and
//! a segment that is missing or has another length: putting the right one back, or a repair, makes the store what it was.
//! Segment files that the index does not know are moved aside and never unlinked; a commit records
//! a segment before it makes the file, so a stop leaves none of them.

mod examine;
mod told;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use pool_core::extent::SegmentId;

use crate::backend::{Backend, DirectoryBackend, free_bytes_of};
use crate::directory;
use crate::distrust::{self, NOBODYS};
use crate::error::{Again, Result, StoreError};
use crate::format::{self, SegmentState};
use crate::index::Index;
use crate::journal::frame::Form;
use crate::journal::{self, Found, Journal};
use crate::mark::Mark;
use crate::owner;
use crate::room::KEPT;
use crate::superblock::{FEATURE_JOURNAL, FEATURE_MARKED, FEATURE_MASKED, Superblock};
use crate::used;

pub use examine::may_lack_file;
pub(crate) use examine::{
    check_index, check_journal, check_segment, examine_for_reading, has_journal,
};
use examine::{examine, refused};

/// A store that is open for writing.
pub(crate) struct Opened {
    pub(crate) superblock: Superblock,
    pub(crate) index: Index,
    pub(crate) backend: Arc<dyn Backend>,
    /// Keeps other writers away for as long as it is open.
    pub(crate) lock: (File, Option<File>),
    /// The index says otherwise of segments than the journal, which may not be on record.
    pub(crate) is_distrusted: bool,
}

/// Says of a full disk what an opening needs of it: nobody can collect anything before that.
pub(crate) fn no_room(directory: &Path, error: StoreError) -> StoreError {
    let (doing, path) = match error {
        StoreError::NoSpace { doing, path, .. } => (doing, path),
        other => return other,
    };
    let index = directory.join(format::INDEX_DIRECTORY);
    // It tells of no file.
    let path = if path.is_absolute() || path.starts_with(directory) {
        path
    } else {
        index.clone()
    };
    let there = path.ancestors().find(|part| part.exists());
    let free = there.and_then(|part| free_bytes_of(part).ok());
    let again = Again::Openable {
        needed: Index::logged_at(&index).saturating_add(KEPT),
        free: free.unwrap_or(0),
    };
    StoreError::NoSpace { doing, path, again }
}

/// Opens the store in `directory` for writing.
pub(crate) fn open(directory: &Path) -> Result<Opened> {
    let mut superblock = Superblock::read(directory, true)?;
    let lock = directory::lock(directory)?;
    let backend = backend(directory);
    // Its absence is told of with the rest.
    let segments = match owner::lock(directory) {
        Err(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        locked => Some(locked?),
    };
    let examined = examine(directory, &superblock, backend.as_ref())?;
    let journal = directory.join(format::JOURNAL_DIRECTORY);
    let lead = examined.lead.as_ref();
    let differing = lead.map_or(&[][..], |lead| lead.differing.as_slice());
    let mut is_distrusted = distrust::is_noted(directory);
    if !differing.is_empty() {
        is_distrusted = true;
        tracing::error!(
            differing = differing.join("; "),
            "the index is wrong about segments and is not trusted: stop the service, and let {} make it anew from the journal",
            examine::repair(directory)
        );
        // As soon as there is room for that, if not now.
        if let Err(error) = distrust::note(directory) {
            tracing::error!(%error, "noting that the index cannot be trusted");
        }
    }
    if let Some(lead) = lead
        && lead.lacks() > 0
    {
        Journal::secure(&journal, &lead.found)?;
    }
    // Before the index wants room, which they may take up.
    journal::clear_away(&journal);

    let mark = Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?;
    let index = Index::open_primary(&directory.join(format::INDEX_DIRECTORY), mark)?;
    if !superblock.is_marked() {
        // With a journal it is a superblock from before that somebody put back.
        if examined.lead.is_none() {
            index.adopt(superblock.identity)?;
        }
        superblock.read_only_compatible |= FEATURE_MARKED;
        superblock.write(directory)?;
        tracing::info!("the index carries the store's identity and counts commits from now on");
    }
    if let Some(lead) = &examined.lead
        && lead.lacks() > 0
    {
        if lead.few.is_empty() {
            index.replay_from(&journal, superblock.identity, lead.has, lead.found.last)?;
        } else {
            index.replay(&lead.few)?;
        }
        tracing::warn!(
            first = lead.has + 1,
            last = lead.found.last,
            "the index lacked commits, which the journal had"
        );
    }
    index.bring_mark_up()?;
    index.know_totals();
    let found = examined.lead.map(|lead| lead.found);
    if let Err(error) = keep_journal(directory, &mut superblock, &index, found) {
        // A store that has one may not be written to without it, and one that was begun is there.
        if has_journal(directory, &superblock) {
            return Err(error);
        }
        tracing::warn!(%error, "no journal could be begun; the next opening tries again");
    }
    if is_distrusted {
        // The journal may know them, and say more of the others than the index.
        let unknown = examined.unknown.len();
        tracing::warn!(
            unknown,
            "the index is not trusted: no segment file is moved aside or written to"
        );
    } else {
        // Before segments are sealed, of which nobody looks how far they are referred to.
        used::raise_open(&index, backend.as_ref())?;
        set_aside(&index, backend.as_ref(), &examined.unknown)?;
    }
    for id in &examined.known {
        backend.label(*id);
    }
    if let Err(error) = owner::note(directory, superblock.identity) {
        tracing::warn!(%error, "nothing tells another store whose segments these are; the next opening tries again");
    }
    let staging = directory.join(format::STAGING_DIRECTORY);
    fs::create_dir_all(&staging).map_err(|source| StoreError::io("creating", staging, source))?;
    // With it, and should the superblock be lost, the next restoration would take all of this for its own.
    directory::end_restoration(directory)?;
    Ok(Opened {
        superblock,
        index,
        backend,
        lock: (lock, segments),
        is_distrusted,
    })
}

/// Goes on with the journal that was `found`, or begins one.
fn keep_journal(
    directory: &Path,
    superblock: &mut Superblock,
    index: &Index,
    found: Option<Found>,
) -> Result<()> {
    let path = directory.join(format::JOURNAL_DIRECTORY);
    let (identity, segment_bytes) = (superblock.identity, superblock.segment_bytes);
    let found = if let Some(found) = found {
        found
    } else {
        Journal::begin(
            &path,
            identity,
            segment_bytes,
            Form::Masked,
            &index.pinned(),
        )?;
        let begun = journal::read(&path, identity, |_, _, _| ());
        begun.map_err(|unusable| refused(directory, unusable.why))?
    };
    let mut told = *superblock;
    told.read_only_compatible |= FEATURE_JOURNAL | FEATURE_MASKED;
    if told != *superblock {
        match told.write(directory) {
            Ok(()) => {
                *superblock = told;
                tracing::info!("every commit goes to a journal, masked, from now on");
            }
            // It goes on as it was.
            Err(error) if superblock.is_journaled() => {
                tracing::warn!(%error, "logs of the journal are not masked; the next opening tries again");
            }
            Err(error) => return Err(error),
        }
    }
    let form = journal_form(superblock);
    index.keep(Journal::open(&path, identity, segment_bytes, form, &found)?);
    Ok(())
}

/// How logs of a store's journal are begun.
pub(crate) fn journal_form(superblock: &Superblock) -> Form {
    if superblock.is_masked() {
        Form::Masked
    } else {
        Form::Plain
    }
}

/// The segments and temporary files of a store.
pub(crate) fn backend(directory: &Path) -> Arc<dyn Backend> {
    Arc::new(DirectoryBackend::new(
        directory.join(format::SEGMENTS_DIRECTORY),
        directory.join(format::STAGING_DIRECTORY),
        directory.join(format::LOST_DIRECTORY),
    ))
}

/// Moves segment files aside that the index does not know. Somebody put them there, or the index is
/// not what it should be: from then on nothing is written to segments that were open, either, and their numbers are nobody's. That is
/// committed first, since nothing tells of it once the files are gone.
fn set_aside(index: &Index, backend: &dyn Backend, unknown: &[SegmentId]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let mut batch = index.batch();
    for (id, mut record) in index.now().segments()? {
        if record.state == SegmentState::Open && record.used > 0 {
            record.state = SegmentState::Sealed;
            batch.put_segment(id, &record);
        }
    }
    let taken = unknown.iter().filter(|id| id.0 < NOBODYS);
    let after = taken.map(|id| u64::from(id.0) + 1).max();
    let next = index.now().next_segment()?.max(after.unwrap_or(0));
    batch.put_next_segment(next);
    batch.commit()?;
    for id in unknown {
        let path = backend.set_aside(*id)?;
        tracing::warn!(
            segment = %id,
            path = %path.display(),
            "moved a segment file aside that the index does not know; remove it if nobody misses it"
        );
    }
    Ok(())
}
