//! Reading an index anew from its files: what whoever has it open has in memory tells nothing of the disk.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use rocksdb::statistics::Ticker;
use rocksdb::{DB, Options};

use super::inspection::check_files;
use super::options::{FAMILIES, PAGES, WINDOWS, families, options};
use super::{Index, Inspection, Reader, Role, failed};
use crate::error::{Result, StoreError};

/// An index as its files have it, with nothing of it in memory before. Nothing is changed on disk.
pub(crate) struct Reread {
    path: PathBuf,
    index: Index,
    /// They count what is not what its checksum says.
    options: Options,
}

impl Reread {
    /// Opens the index, beside whoever may have it open for writing: that one must [keep its files](Index::keep_files), or an
    /// error may come of one that went meanwhile.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        check_files(path)?;
        let options = counting();
        let db = DB::open_cf_descriptors_read_only(&options, path, families(), false)
            .map_err(|source| failed("opening", source))?;
        Ok(Self {
            path: path.into(),
            index: Index {
                path: path.into(),
                role: Role::Inspector(db),
            },
            options,
        })
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        self.index.now()
    }

    pub(crate) fn inspect(&self) -> Result<Inspection> {
        self.index.inspect()
    }

    /// Reads everything and answers with what is damaged, unless `step`, which is told of the bytes of each record, ends it.
    pub(crate) fn damage(
        &self,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> ControlFlow<(), Vec<StoreError>> {
        let mut found = self.reader().read_through(step)?;
        // RocksDB goes on without a filter that it cannot read, and says nothing.
        if found.is_empty() && mismatches(&self.options) > 0 {
            let tables = match self.tables_with_damaged_filters() {
                Ok(tables) => tables.join(", "),
                Err(error) => error.to_string(),
            };
            found.push(StoreError::Corrupt(format!(
                "the filter of a table of the index is not what its checksum says (one of {tables})"
            )));
        }
        ControlFlow::Continue(found)
    }

    /// The tables of the families that have one with a damaged filter: its own, where there is one.
    fn tables_with_damaged_filters(&self) -> Result<Vec<String>> {
        let mut tables = Vec::new();
        for family in [PAGES, WINDOWS] {
            let options = counting();
            let db = open_alone(&options, &self.path, family)?;
            if mismatches(&options) == 0 {
                continue;
            }
            let live = db
                .live_files()
                .map_err(|source| failed("listing", source))?;
            let live = live
                .into_iter()
                .filter(|file| file.column_family_name == family);
            let path = self.path.display();
            tables.extend(live.map(|file| format!("{path}{}", file.name)));
        }
        Ok(tables)
    }
}

/// The families that have tables which cannot be opened, of an index that cannot: RocksDB does not always tell. `None` where not
/// even the list of tables can be read.
pub(crate) fn families_with_damaged_tables(path: &Path) -> Option<Vec<&'static str>> {
    let fails = |family: &&str| open_alone(&counting(), path, family).is_err();
    if fails(&"default") {
        return None;
    }
    Some(FAMILIES.into_iter().filter(fails).collect())
}

/// Opens a family and the empty one, without which RocksDB opens nothing.
fn open_alone(options: &Options, path: &Path, family: &str) -> Result<DB> {
    let alone = families()
        .into_iter()
        .filter(|found| ["default", family].contains(&found.name()));
    DB::open_cf_descriptors_read_only(options, path, alone, false)
        .map_err(|source| failed("opening", source))
}

/// Options with which every table is opened at once, its filter with it, and stays open: who writes may remove it.
fn counting() -> Options {
    let mut options = options();
    options.set_max_open_files(-1);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.enable_statistics();
    options
}

/// Blocks that were not what their checksums say.
fn mismatches(options: &Options) -> u64 {
    options.get_ticker_count(Ticker::BlockChecksumMismatchCount)
}

/// Keeps all files of an index that is open for writing, and of its journal, for as long as it lives.
pub(crate) struct FilesKept<'a> {
    db: &'a DB,
    /// Commits that the index had then.
    pub(crate) commits: u64,
    /// What removes files of the journal.
    _no_checkpoint: MutexGuard<'a, ()>,
}

impl Index {
    /// Sees to it that nothing removes files of the index or of its journal; commits go on. `None` of an index that another
    /// process may have open for writing. No checkpoint is written meanwhile.
    pub(crate) fn keep_files(&self) -> Result<Option<FilesKept<'_>>> {
        let Role::Primary {
            db,
            count,
            checkpointing,
            ..
        } = &self.role
        else {
            return Ok(None);
        };
        let no_checkpoint = checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        db.disable_file_deletions()
            .map_err(|source| failed("keeping the files of", source))?;
        let commits = count.lock().unwrap_or_else(PoisonError::into_inner).commits;
        Ok(Some(FilesKept {
            db,
            commits,
            _no_checkpoint: no_checkpoint,
        }))
    }

    /// What is wrong, in words, with the mark that is at its path by now, if this process is who writes it.
    pub(crate) fn changed_mark(&self) -> Result<Option<String>> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Ok(None);
        };
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(there) = mark.at_path()? else {
            return Ok(Some("is not there".into()));
        };
        if there.identity() != mark.identity() {
            return Ok(Some(
                "is another file than the one that is written to".into(),
            ));
        }
        let found = there.read()?;
        // Of one that could not be written everybody is told otherwise.
        if count.marked != count.commits || found == Some(count.marked) {
            return Ok(None);
        }
        let found = found.map_or("nothing".into(), |found| found.to_string());
        let written = count.marked;
        Ok(Some(format!(
            "says {found}, and {written} was written to it"
        )))
    }

    /// Writes the mark again, to the file that is at its path by now.
    pub(crate) fn write_mark(&self) -> Result<()> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Ok(());
        };
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        mark.make_anew(count.marked)
    }
}

impl Drop for FilesKept<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.db.enable_file_deletions() {
            tracing::warn!(%error, "files that the index needs no more stay until it is opened next");
        }
    }
}
