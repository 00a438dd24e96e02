//! Whether the files that say what a store has are what they were, and say the same.
//!
//! Index and journal are each other's redundancy, which is worth something only as long as both are whole. Neither is read to its
//! end while all goes well: of a checkpoint an opening looks at the header, and what the index has in memory tells nothing of the
//! disk. So here everything is read anew: superblock, mark, all tables and logs of the index, the newest checkpoint and all
//! frames; and what checkpoint and frames come to is compared with the index, record by record. What is damaged of the one can be
//! made anew from the other ([`repair`](crate::repair)), and until then the index is not
//! [trusted](crate::StoreView::distrusts_index).

mod compare;
mod damage;
mod mending;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use crate::StoreView;
use crate::error::{self, Result, StoreError};
use crate::format::{GENERATION_FILE, INDEX_DIRECTORY, JOURNAL_DIRECTORY, SUPERBLOCK_FILE};
use crate::index::{Inspection, Reread};
use crate::journal::{self, Examined};
use crate::opening::has_journal;
pub(crate) use compare::Comparison;
pub use damage::{DamagedFile, Part};

/// Bytes that are read between two reports.
const STEP: u64 = 2 << 20;

/// How often a store that another process may write to is looked at until two looks in a row find the same.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Files that are not what they should be.
    pub damaged: Vec<DamagedFile>,
    /// How far the mark is behind in a store that nobody writes to, in words: a power cut leaves that.
    pub late_mark: Option<String>,
    /// Files of the index cannot be read. A reader beside the writer may then miss records without a word (RocksDB's secondaries
    /// take a table that they cannot open for none).
    pub lacks_tables: bool,
}

/// Reads superblock, mark, index and journal of a store anew and compares them. Others may write to the store and collect
/// meanwhile. `step` is told of the bytes that were read every 2 MiB at most, may take its time, and may end it: then there is no
/// answer.
///
/// # Errors
///
/// When the store cannot be kept as it is for as long, when this process or the machine lacks what looking takes (open files,
/// memory), or when another process changes the store all the time. What else cannot be read is damage and no error.
pub fn audit(
    view: &StoreView,
    step: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<(), Audit>> {
    let mut reading = Reading {
        step,
        read: 0,
        flow: ControlFlow::Continue(()),
    };
    let mut last = None;
    for _ in 0..LOOKS {
        let found = look(view, &mut reading)?;
        if reading.flow.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // Of a store that this process has nothing goes meanwhile. Of another's something can be gone between two looks.
        let is_same = |last: &Audit| last.is_like(&found);
        if view.is_writer() || found.damaged.is_empty() || last.as_ref().is_some_and(is_same) {
            return Ok(ControlFlow::Continue(found));
        }
        last = Some(found);
        std::thread::sleep(PAUSE);
        if let Err(error) = view.refresh() {
            tracing::debug!(%error, "looking again");
        }
    }
    let found = last.into_iter().flat_map(|last| last.damaged);
    let found: Vec<_> = found.map(|file| file.what).collect();
    Err(unlooked(
        view,
        &format!(
            "another process changes the store, and each of {LOOKS} looks found something else, {:?} the last: ask its service \
             (pool scrub, pool fsck), or look again",
            found.join("; ")
        ),
    ))
}

/// It is not known what is there, because of `why`.
fn unlooked(view: &StoreView, why: &str) -> StoreError {
    StoreError::io("looking at", view.directory(), io::Error::other(why))
}

impl Audit {
    /// True when the same files were found damaged. Where it is not known which file it is, it must be the same in words.
    fn is_like(&self, other: &Self) -> bool {
        let of = |audit: &Self| -> Vec<_> {
            let files = audit.damaged.iter().map(|file| {
                let is_any = [INDEX_DIRECTORY, JOURNAL_DIRECTORY].contains(&file.file.as_str());
                let what = if is_any { file.what.as_str() } else { "" };
                (file.file.clone(), what.to_owned())
            });
            files.collect()
        };
        of(self) == of(other)
    }
}

/// Tells somebody now and then how much was read.
struct Reading<'a> {
    step: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    /// Bytes since that was told last.
    read: u64,
    flow: ControlFlow<()>,
}

impl Reading<'_> {
    /// `bytes` more were read.
    fn note(&mut self, bytes: u64) -> ControlFlow<()> {
        self.read += bytes;
        if self.read >= STEP {
            return self.tell();
        }
        self.flow
    }

    fn tell(&mut self) -> ControlFlow<()> {
        let read = std::mem::take(&mut self.read);
        if self.flow.is_continue() {
            self.flow = (self.step)(read);
        }
        self.flow
    }
}

fn look(view: &StoreView, reading: &mut Reading<'_>) -> Result<Audit> {
    let directory = view.directory();
    // As long as this lives no checkpoint is written.
    let kept = view.index.keep_files()?;
    let mut found = Audit::default();
    if let Err(error) = view.check_superblock() {
        let part = Part::Superblock;
        found
            .damaged
            .push(DamagedFile::new(part, SUPERBLOCK_FILE, error.to_string()));
    }
    // Before the index, which others may be adding to.
    let least = match &kept {
        Some(kept) => kept.commits,
        None => view.generation().unwrap_or(0),
    };
    let mark = match view.index.changed_mark() {
        Ok(what) => what,
        Err(error) => Some(error.to_string()),
    };
    let mark = mark.map(|what| DamagedFile::new(Part::Mark, GENERATION_FILE, what));
    found.damaged.extend(mark);
    let index = look_at_index(view, least, reading, &mut found);
    let limit = match &index {
        Some((_, inspection)) => inspection.commits,
        None => kept.as_ref().map_or(least, |kept| kept.commits),
    };
    if kept.is_none() && index.is_some() {
        found.late_mark = late_mark(view, limit);
    }
    let has_journal = has_journal(directory, view.superblock());
    if reading.flow.is_break() {
        return Ok(found);
    }
    let mut is_compared = false;
    if has_journal {
        let damaged = &mut found.damaged;
        is_compared = look_at_journal(view, limit, index.as_ref(), reading, damaged);
    } else if let Some((index, _)) = &index {
        let records = compare::check(&index.reader(), reading);
        let records = records.into_iter().map(DamagedFile::of_index);
        found.damaged.extend(records);
    }
    let _ = reading.tell();
    let passing = found.damaged.iter().find(|file| file.is_passing());
    if let Some(file) = passing {
        return Err(unlooked(view, &format!("{}: {}", file.place(), file.what)));
    }
    let has_index = |found: &Audit| found.damaged.iter().any(|file| file.part == Part::Index);
    if has_journal && reading.flow.is_continue() {
        let is_distrusted = !is_compared && view.distrusts_index();
        if is_distrusted && !has_index(&found) {
            found.damaged.push(DamagedFile::of_index(
                "it was found damaged, or to differ from the journal, and cannot be compared with that now".into(),
            ));
        }
        // Nobody else may write there.
        if kept.is_some() {
            view.set_distrust(has_index(&found));
        }
    }
    damage::advise(&mut found.damaged, view.superblock(), directory);
    Ok(found)
}

/// Reads the index anew, which has `least` commits or more. Answers with what can be used of it, if all of it can be read.
fn look_at_index(
    view: &StoreView,
    least: u64,
    reading: &mut Reading<'_>,
    found: &mut Audit,
) -> Option<(Reread, Inspection)> {
    let directory = view.directory();
    let index = match open_index(directory) {
        Ok(index) => index,
        Err(damaged) => {
            found.damaged.push(damaged);
            found.lacks_tables = true;
            return None;
        }
    };
    let errors = match index.damage(&mut |bytes| reading.note(bytes)) {
        ControlFlow::Continue(errors) => errors,
        ControlFlow::Break(()) => return None,
    };
    if !errors.is_empty() {
        found.lacks_tables = true;
        let errors = errors.iter();
        let errors = errors.map(|error| DamagedFile::of_error(directory, error));
        found.damaged.extend(errors);
        return None;
    }
    let damaged = &mut found.damaged;
    let inspection = match index.inspect() {
        Ok(inspection) => inspection,
        Err(error) => {
            damaged.push(DamagedFile::of_error(directory, &error));
            return None;
        }
    };
    let superblock = view.superblock();
    let what = match inspection.identity {
        Some(identity) if identity != superblock.identity => Some(error::another_store()),
        None if superblock.is_marked() => Some("it does not say which store it belongs to".into()),
        // Indexes of old releases count nothing.
        _ if superblock.is_marked() && inspection.commits < least => Some(format!(
            "on disk it has {} commits, and {least} were made: its log or its list of tables (MANIFEST) is damaged",
            inspection.commits
        )),
        _ => inspection.hole.map(|number| {
            format!(
                "commit {number} of {} is missing in it: its log is damaged",
                inspection.commits
            )
        }),
    };
    match what {
        Some(what) => {
            damaged.push(DamagedFile::of_index(what));
            None
        }
        None => Some((index, inspection)),
    }
}

fn open_index(directory: &Path) -> std::result::Result<Reread, DamagedFile> {
    let path = directory.join(INDEX_DIRECTORY);
    // RocksDB would make a directory of its own.
    if let Err(error) = path.join("CURRENT").symlink_metadata() {
        let file = format!("{INDEX_DIRECTORY}/CURRENT");
        let what = format!("cannot be looked at ({error})");
        return Err(DamagedFile::new(Part::Index, file, what));
    }
    Reread::open(&path).map_err(|error| DamagedFile::of_unopened_index(directory, &error))
}

/// Reads the journal up to the commit `limit`, and compares it with the index if both are whole. True when that was done.
fn look_at_journal(
    view: &StoreView,
    limit: u64,
    index: Option<&(Reread, Inspection)>,
    reading: &mut Reading<'_>,
    damaged: &mut Vec<DamagedFile>,
) -> bool {
    let (directory, identity) = (view.directory(), view.superblock().identity);
    let journal = directory.join(JOURNAL_DIRECTORY);
    let Examined {
        flaws,
        checkpoint,
        reached,
    } = journal::examine(
        &journal,
        identity,
        limit,
        view.is_writer(),
        |_, _, changes| {
            let _ = reading.note(changes.len() as u64);
        },
    );
    if let Some(checkpoint) = &checkpoint {
        let _ = reading.note(checkpoint.bytes());
    }
    if !flaws.is_empty() {
        let flaws = flaws.into_iter();
        damaged.extend(flaws.map(|flaw| DamagedFile::of_journal(directory, flaw)));
        return false;
    }
    let (Some((index, inspection)), Some(checkpoint), Some(reached)) = (index, checkpoint, reached)
    else {
        return false;
    };
    if inspection.frame.unwrap_or_default() != reached {
        damaged.push(DamagedFile::of_index(format!(
            "its commit {limit} is another one than that of the journal: they are of different copies of the store"
        )));
        return true;
    }
    let comparison = Comparison {
        index: &index.reader(),
        checkpoint: &checkpoint,
        journal: &journal,
        identity,
        limit,
    };
    let differing = match comparison.differences(&mut |bytes| reading.note(bytes)) {
        Ok(Some(differing)) => differing,
        Ok(None) => return false,
        Err(error) => vec![error.to_string()],
    };
    damaged.extend(differing.into_iter().map(DamagedFile::of_index));
    true
}

/// How far the mark is behind `commits`, which were made, if it stays there: whoever makes commits writes it at once.
fn late_mark(view: &StoreView, commits: u64) -> Option<String> {
    let mut mark = 0;
    for _ in 0..LOOKS {
        mark = view.generation().unwrap_or(0);
        if mark >= commits || !view.superblock().is_marked() {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    Some(format!(
        "{GENERATION_FILE} says {mark}, and {commits} commits were made"
    ))
}

/// A path in the store's directory, as people are told of it.
fn relative(directory: &Path, path: &Path) -> String {
    let path = path.strip_prefix(directory).unwrap_or(path);
    path.display().to_string()
}
