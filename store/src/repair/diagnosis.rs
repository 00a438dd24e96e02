//! What is wrong with a store's index and journal, and what mends it. Nothing is changed.

use std::ops::ControlFlow;
use std::path::Path;

use pool_core::extent::SegmentId;

use super::Remedy;
use crate::audit::Comparison;
use crate::backend::Backend;
use crate::catalogue::Catalogue;
use crate::distrust;
use crate::error::{self, Result, StoreError};
use crate::format::{self, SegmentRecord};
use crate::index::{Inspection, Reread, follow_segments};
use crate::journal::checkpoint::checkpoint;
use crate::journal::{self, Commits, Found, Unusable, following};
use crate::mark::Mark;
use crate::opening::{check_index, check_journal, check_segment, has_journal};
use crate::slots::Segments;
use crate::superblock::Superblock;
use crate::used;

/// What is wrong, and what mends it.
#[derive(Debug)]
pub(super) struct Diagnosis {
    pub(super) wrong: Vec<String>,
    pub(super) remedy: Remedy,
    /// The journal is to be begun anew, too.
    pub(super) renew: bool,
    /// Commits that the store has.
    pub(super) commits: u64,
    /// Commits that the index lacks.
    pub(super) replayed: u64,
    /// These commits, where the journal that has them is to be begun anew and cannot be opened.
    pub(super) rescued: Commits,
    /// What a repair does not mend.
    pub(super) left: Vec<String>,
    /// Index and journal were compared, and are the same.
    pub(super) is_compared: bool,
}

/// A journal whose frames are whole, and what is wrong with its checkpoint, if anything.
struct Logs {
    found: Found,
    checkpoint: std::result::Result<Catalogue, String>,
}

impl Diagnosis {
    pub(super) fn of(
        directory: &Path,
        superblock: &Superblock,
        backend: &dyn Backend,
    ) -> Result<Self> {
        let refused = |why: String| StoreError::Refused {
            path: directory.into(),
            why,
        };
        let mark = Mark::open(&directory.join(format::GENERATION_FILE))?;
        let mark = mark.map(|mark| mark.read()).transpose()?.flatten();
        let mut wrong = Vec::new();
        if mark.is_none() && superblock.is_marked() {
            wrong.push("generation is absent or too short".to_owned());
        }
        let mark = mark.unwrap_or(0);
        let index = look_at_index(directory, superblock);
        let short = match &index {
            Ok((reread, _)) => used::short(&reread.reader())?,
            Err(_) => Vec::new(),
        };
        if !has_journal(directory, superblock) {
            let (_, index) = index.map_err(|why| {
                refused(format!(
                    "{why}, and this store has no journal yet: put the newest index back, or make a store of a backup \
                     (pool restore)"
                ))
            })?;
            // What an opening would refuse no repair mends without one.
            let files = backend.list().unwrap_or_default();
            check_index(superblock, mark, &index, &files).map_err(|why| {
                refused(format!(
                    "{why}; this store has no journal yet, so nothing but a backup (pool restore) can stand in for it"
                ))
            })?;
            let diagnosis = Self {
                left: lost_segments(backend, index.segments.into_iter().collect()),
                wrong,
                remedy: Remedy::None,
                renew: false,
                commits: index.commits.max(mark),
                replayed: 0,
                rescued: Commits::new(),
                is_compared: false,
            };
            return Ok(diagnosis.with_short(short));
        }
        let logs = look_at_journal(directory, superblock);
        let mut diagnosis = match (index, logs) {
            (Ok((reread, index)), logs) => {
                let differing = match &logs {
                    Ok(logs) => differing(directory, superblock, &reread, &index, logs),
                    Err(_) => None,
                };
                match (differing, logs) {
                    (Some(differing), Ok(logs)) if !differing.is_empty() => {
                        let mut differing = differing.into_iter();
                        let why = differing.next().unwrap_or_default();
                        with_journal(mark, format!("index: {why}"), &logs).map(|diagnosis| {
                            let wrong = diagnosis.wrong.into_iter().chain(differing).collect();
                            Self { wrong, ..diagnosis }
                        })
                    }
                    (differing, logs) => {
                        let diagnosis =
                            with_index(directory, superblock, mark, index, logs, backend);
                        diagnosis.map(|diagnosis| Self {
                            is_compared: differing.is_some(),
                            ..diagnosis
                        })
                    }
                }
            }
            (Err(why), Ok(logs)) => with_journal(mark, why, &logs),
            (Err(why), Err(unusable)) => Err(both(&why, &unusable.why)),
        }
        .map_err(refused)?;
        if (diagnosis.remedy == Remedy::Journal || diagnosis.renew) && distrust::is_noted(directory)
        {
            let note = directory.join(format::DISTRUSTED_FILE);
            let why = diagnosis.wrong.join("; ");
            return Err(refused(format!(
                "{}; to go by the index as it is remove {} and repair again",
                both(
                    "the index was found damaged, or to differ from the journal",
                    &why
                ),
                note.display()
            )));
        }
        wrong.append(&mut diagnosis.wrong);
        diagnosis.wrong = wrong;
        Ok(diagnosis.with_short(short))
    }

    /// Some segments have too few used slots by the index. One that is made anew is asked again.
    fn with_short(mut self, short: Vec<String>) -> Self {
        if self.remedy == Remedy::None && !short.is_empty() {
            self.remedy = Remedy::Segments;
        }
        if self.remedy != Remedy::Index {
            self.wrong.extend(short);
        }
        self
    }
}

/// Reads all of the index; otherwise what is wrong with it.
fn look_at_index(
    directory: &Path,
    superblock: &Superblock,
) -> std::result::Result<(Reread, Inspection), String> {
    let path = directory.join(format::INDEX_DIRECTORY);
    if let Err(error) = path.join("CURRENT").symlink_metadata() {
        return Err(format!("the index has no file CURRENT ({error})"));
    }
    let read = || {
        let index = Reread::open(&path)?;
        match index.damage(&mut |_| ControlFlow::Continue(())) {
            ControlFlow::Continue(damage) => damage.into_iter().next().map_or(Ok(()), Err)?,
            ControlFlow::Break(()) => {}
        }
        let found = index.inspect()?;
        Ok((index, found))
    };
    let read: Result<_> = read();
    let (index, found) = read.map_err(|error| format!("the index cannot be read ({error})"))?;
    match found.identity {
        Some(identity) if identity == superblock.identity => Ok((index, found)),
        None if !superblock.is_marked() => Ok((index, found)),
        None => Err("the index does not say which store it belongs to".into()),
        Some(_) => Err("the index belongs to another store".into()),
    }
}

/// Reads all of the journal.
fn look_at_journal(
    directory: &Path,
    superblock: &Superblock,
) -> std::result::Result<Logs, Unusable> {
    let path = directory.join(format::JOURNAL_DIRECTORY);
    let found = journal::read(&path, superblock.identity, |_, _, _| ())?;
    let checkpoint = checkpoint(&path, superblock.identity, found.checkpoint);
    Ok(Logs { found, checkpoint })
}

/// What of the index is not what the journal has, in words, if the two can be compared.
fn differing(
    directory: &Path,
    superblock: &Superblock,
    reread: &Reread,
    index: &Inspection,
    logs: &Logs,
) -> Option<Vec<String>> {
    let checkpoint = logs.checkpoint.as_ref().ok()?;
    let is_within = (checkpoint.header().commits..=logs.found.last).contains(&index.commits);
    let journal = directory.join(format::JOURNAL_DIRECTORY);
    let digest = journal::digest_of(&journal, superblock.identity, index.commits);
    // Of another copy of the store all of it may differ, and which one is right nothing tells.
    if !is_within
        || index.hole.is_some()
        || digest.unwrap_or_default() != index.frame.unwrap_or_default()
    {
        return None;
    }
    let comparison = Comparison {
        index: &reread.reader(),
        checkpoint,
        journal: &journal,
        identity: superblock.identity,
        limit: index.commits,
    };
    match comparison.differences(&mut |_| ControlFlow::Continue(())) {
        Ok(differing) => differing,
        Err(error) => Some(vec![format!("something cannot be compared ({error})")]),
    }
}

fn both(index: &str, journal: &str) -> String {
    format!(
        "{index}; and its journal cannot stand in for it ({journal}): put the newest index or the newest journal back, then \
         repair what is left, or make a store of a backup (pool restore)"
    )
}

/// The index can be read.
fn with_index(
    directory: &Path,
    superblock: &Superblock,
    mark: u64,
    index: Inspection,
    logs: std::result::Result<Logs, Unusable>,
    backend: &dyn Backend,
) -> std::result::Result<Diagnosis, String> {
    // As every opening does.
    let fits = check_journal(directory, superblock, mark, &index);
    let (why, logs) = match (fits, logs) {
        (Ok(lead), Ok(logs)) => {
            let mut wrong = Vec::new();
            let replayed = lead.lacks();
            if replayed > 0 {
                wrong.push(format!("the index lacks {replayed} commits"));
            }
            let renew = logs.checkpoint.is_err();
            wrong.extend(logs.checkpoint.err());
            return Ok(Diagnosis {
                wrong,
                remedy: match () {
                    () if replayed > 0 => Remedy::Replay,
                    () if renew => Remedy::Journal,
                    () => Remedy::None,
                },
                renew,
                commits: lead.found.last,
                replayed,
                rescued: Commits::new(),
                is_compared: false,
                left: lost_segments(backend, lead.segments),
            });
        }
        (Err(why), logs) => (why, logs),
        (Ok(_), Err(unusable)) => (unusable.why.clone(), Err(unusable)),
    };
    let seen = match &logs {
        Ok(logs) => logs.found.last,
        Err(unusable) => unusable.seen,
    };
    let is_whole = index.hole.is_none();
    if let (true, Err(unusable)) = (is_whole, &logs) {
        let rescued = rescue(directory, &index)?;
        let commits = index.commits + rescued.len() as u64;
        if !rescued.is_empty() && commits >= mark.max(unusable.seen) {
            let lacking = format!("the index lacks {} commits", rescued.len());
            return Ok(Diagnosis {
                wrong: vec![why, lacking],
                remedy: Remedy::Replay,
                renew: true,
                commits,
                replayed: rescued.len() as u64,
                left: lost_segments(backend, followed(index.segments, &rescued)?),
                rescued,
                is_compared: false,
            });
        }
    }
    if is_whole
        && index.commits >= mark
        && (index.commits > seen || logs.is_err() && index.commits == seen)
    {
        return Ok(Diagnosis {
            wrong: vec![why],
            remedy: Remedy::Journal,
            renew: false,
            commits: index.commits,
            replayed: 0,
            rescued: Commits::new(),
            is_compared: false,
            left: lost_segments(backend, index.segments.into_iter().collect()),
        });
    }
    match logs {
        // It begins too late to bring the index up, or that has a hole.
        Ok(logs)
            if index.commits < logs.found.last || !is_whole && index.commits <= logs.found.last =>
        {
            with_journal(mark, why, &logs)
        }
        Ok(_) => Err(why),
        Err(unusable) => Err(both(
            &format!(
                "its index has {} commits{}, {seen} were seen in the journal and {mark} were acknowledged",
                index.commits,
                if is_whole { "" } else { " with a hole" }
            ),
            &unusable.why,
        )),
    }
}

/// Commits that follow the last one of the index, of a journal that cannot be opened. A stop leaves one in any case.
fn rescue(directory: &Path, index: &Inspection) -> std::result::Result<Commits, String> {
    let path = directory.join(format::JOURNAL_DIRECTORY);
    if index.identity.is_none() || path.symlink_metadata().is_err() {
        return Ok(Commits::new());
    }
    // What has the name of a journal, or of its newest part, and is none.
    following(&path, index.commits, index.frame.unwrap_or_default())
        .map_err(|why| format!("{why}: move {} away, then repair", path.display()))
}

/// What segments there are after these commits.
fn followed(
    segments: Vec<(SegmentId, SegmentRecord)>,
    commits: &Commits,
) -> std::result::Result<Segments, String> {
    let mut segments: Segments = segments.into_iter().collect();
    for (number, _, changes) in commits {
        follow_segments(&mut segments, *number, changes).map_err(|error| error.to_string())?;
    }
    Ok(segments)
}

/// The index cannot be used, because of `why`, and the journal's frames can.
fn with_journal(mark: u64, why: String, logs: &Logs) -> std::result::Result<Diagnosis, String> {
    if let Err(checkpoint) = &logs.checkpoint {
        return Err(both(&why, checkpoint));
    }
    let commits = logs.found.last;
    if commits < mark {
        return Err(both(&why, &error::older("it knows", commits, mark)));
    }
    Ok(Diagnosis {
        wrong: vec![why],
        remedy: Remedy::Index,
        renew: false,
        commits,
        replayed: commits - logs.found.checkpoint,
        rescued: Commits::new(),
        is_compared: false,
        left: Vec::new(),
    })
}

/// Segments that are not what they must be: no repair makes them again.
pub(super) fn lost_segments(backend: &dyn Backend, segments: Segments) -> Vec<String> {
    let checked = segments
        .into_iter()
        .map(|(id, record)| check_segment(backend, id, record));
    checked.filter_map(std::result::Result::err).collect()
}
