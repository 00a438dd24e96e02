//! Repairing a store: index and journal are each other's redundancy.
//!
//! What is wrong is found out first, and nothing is changed for that (`diagnosis`). An index that is gone or damaged is made
//! anew from the journal (`rebuild`), a journal that is gone or damaged is begun anew from a whole index, and an index that is
//! older is brought up as every opening does. Where both are damaged nothing is done: which of the two has more of what was
//! acknowledged is for a person to find out.
//!
//! What is replaced is moved to `lost/` and never removed. Each step leaves something that the next repair goes on from.

mod diagnosis;
mod rebuild;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::digest::ObjectId;
use serde::Serialize;

use crate::backend::{move_aside, new_file, sync_directory};
use crate::directory;
use crate::distrust;
use crate::error::{Result, StoreError};
use crate::format;
use crate::index::Index;
use crate::journal::Journal;
use crate::mark::Mark;
use crate::opening;
use crate::owner;
use crate::progress::Progress;
use crate::superblock::Superblock;
use crate::used;
use diagnosis::Diagnosis;

/// What mends a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Nothing is wrong with index and journal.
    None,
    /// The index lacks commits, and the journal has them.
    Replay,
    /// The index is made anew from the journal.
    Index,
    /// The journal is begun anew from the index.
    Journal,
    /// Records of segments get as many used slots as something refers to.
    Segments,
}

/// What is wrong with a store, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// What is wrong, in words.
    pub wrong: Vec<String>,
    /// What mends it.
    pub remedy: Remedy,
    /// True when that was done.
    pub done: bool,
    /// Commits that the store has.
    pub commits: u64,
    /// Of these, commits that were taken from the journal's logs.
    pub replayed: u64,
    /// Objects that were compared with their digests; 0 unless the index was made anew.
    pub objects: u64,
    /// Objects that are not what their digests say.
    pub damaged_objects: Vec<ObjectId>,
    /// Where what was replaced is now.
    pub moved: Vec<PathBuf>,
    /// What a repair does not mend, and what to do.
    pub left: Vec<String>,
}

/// Says what is wrong with index and journal of the store in `directory` and, unless it is a `dry_run`, mends that. `progress`
/// is called every 2 MiB at most, and may take its time.
///
/// # Errors
///
/// When another process has the store, and when what there is does not tell what the store must have.
pub fn repair(
    directory: &Path,
    dry_run: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<RepairReport> {
    let repaired = repair_unless_full(directory, dry_run, progress);
    repaired.map_err(|error| opening::no_room(directory, error))
}

fn repair_unless_full(
    directory: &Path,
    dry_run: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<RepairReport> {
    let superblock = Superblock::read(directory, true)?;
    let lock = directory::lock(directory)?;
    owner::check(directory, superblock.identity).map_err(|why| StoreError::Refused {
        path: directory.into(),
        why,
    })?;
    let backend = opening::backend(directory);
    let diagnosis = Diagnosis::of(directory, &superblock, backend.as_ref())?;
    let mut report = RepairReport {
        wrong: diagnosis.wrong,
        remedy: diagnosis.remedy,
        done: false,
        commits: diagnosis.commits,
        replayed: diagnosis.replayed,
        objects: 0,
        damaged_objects: Vec::new(),
        moved: Vec::new(),
        left: diagnosis.left,
    };
    if dry_run {
        return Ok(report);
    }
    match diagnosis.remedy {
        Remedy::Index => {
            let made = rebuild::rebuild(directory, &superblock, &backend, progress)?;
            report.replayed = made.replayed;
            report.objects = made.objects;
            report.damaged_objects = made.damaged;
            report.left = made.left;
            let new = rebuild::new(directory);
            report
                .moved
                .extend(put(directory, format::INDEX_DIRECTORY, &new)?);
        }
        Remedy::Journal => report.moved.extend(renew_journal(directory, &superblock)?),
        Remedy::Replay if !diagnosis.rescued.is_empty() => {
            let mark = Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?;
            let index = Index::open_primary(&directory.join(format::INDEX_DIRECTORY), mark)?;
            index.replay(&diagnosis.rescued)?;
            drop(index);
            report.moved.extend(renew_journal(directory, &superblock)?);
        }
        Remedy::None | Remedy::Replay | Remedy::Segments => {}
    }
    let mark = Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?;
    if mark.read()?.is_none() {
        mark.advance(report.commits)?;
    }
    end(directory)?;
    drop(lock);
    if diagnosis.remedy == Remedy::Replay && diagnosis.rescued.is_empty() {
        drop(opening::open(directory)?);
        if diagnosis.renew {
            let _lock = directory::lock(directory)?;
            report.moved.extend(renew_journal(directory, &superblock)?);
        }
    }
    if report.remedy == Remedy::Index || diagnosis.is_compared {
        distrust::clear(directory)?;
    }
    let raised = raise_used(directory)?;
    if report.remedy == Remedy::Index {
        report.wrong.extend(raised);
    }
    report.done = report.remedy != Remedy::None || !report.wrong.is_empty();
    Ok(report)
}

/// Puts on record as used what something refers to, by a commit: so the journal has it as well. Answers with what had fewer, in words.
fn raise_used(directory: &Path) -> Result<Vec<String>> {
    let index = Index::open_inspector(&directory.join(format::INDEX_DIRECTORY))?;
    let short = used::short(&index.now())?;
    drop(index);
    if !short.is_empty() {
        used::raise_all(&opening::open(directory)?.index)?;
    }
    Ok(short)
}

/// Removes the note of a repair that ended; an index that it was making and nobody needs any more goes with it.
fn end(directory: &Path) -> Result<()> {
    let marker = directory.join(format::REPAIRING_FILE);
    if marker.symlink_metadata().is_err() {
        return Ok(());
    }
    rebuild::clear(directory)?;
    fs::remove_file(&marker).map_err(|error| StoreError::io("removing", marker, error))?;
    sync_directory(directory)
}

/// Begins a journal anew from the index. Answers with where the former one is.
fn renew_journal(directory: &Path, superblock: &Superblock) -> Result<Option<PathBuf>> {
    let path = directory.join(format::JOURNAL_DIRECTORY);
    let index = Index::open_inspector(&directory.join(format::INDEX_DIRECTORY))?;
    let new = Journal::prepare(
        &path,
        superblock.identity,
        superblock.segment_bytes,
        opening::journal_form(superblock),
        &index.now(),
    )?;
    put(directory, format::JOURNAL_DIRECTORY, &new)
}

/// Names `new` as `part` of the store, and moves what had that name to `lost/`. Answers with where it is.
fn put(directory: &Path, part: &str, new: &Path) -> Result<Option<PathBuf>> {
    let path = directory.join(part);
    let moved = match path.symlink_metadata() {
        Ok(_) => Some(move_aside(
            &path,
            &directory.join(format::LOST_DIRECTORY),
            part,
        )?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StoreError::io("looking at", path, error)),
    };
    fs::rename(new, &path).map_err(|error| StoreError::io("naming", new, error))?;
    sync_directory(directory)?;
    Ok(moved)
}

/// Notes that an index is being made: until that ended it is nobody's.
fn mark_unfinished(directory: &Path) -> Result<()> {
    let path = directory.join(format::REPAIRING_FILE);
    let made = new_file(&path).and_then(|file| file.sync_all());
    made.map_err(|error| StoreError::io("creating", path, error))?;
    sync_directory(directory)
}
