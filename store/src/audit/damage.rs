//! A file that is not what it should be, in words: which, where, and what it means.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::relative;
use crate::StoreView;
use crate::error::StoreError;
use crate::format::INDEX_DIRECTORY;
use crate::index::families_with_damaged_tables;
use crate::journal::Flaw;
use crate::opening::has_journal;
use crate::superblock::Superblock;

/// What of a store a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The superblock.
    Superblock,
    /// The number of commits that were acknowledged.
    Mark,
    /// The index, or a file of it.
    Index,
    /// A checkpoint of the journal.
    Checkpoint,
    /// A log of the journal, or the journal as a whole.
    Log,
}

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// What it is.
    pub part: Part,
    /// Where it is in the store's directory; the directory of index or journal where the file cannot be told.
    pub file: String,
    /// From which byte on it is damaged, where that is known.
    pub offset: Option<u64>,
    /// What is wrong, for people.
    pub what: String,
    /// What that means, and what to do.
    pub advice: String,
    /// It was written anew.
    pub mended: bool,
}

impl DamagedFile {
    pub(super) fn new(part: Part, file: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            part,
            file: file.into(),
            offset: None,
            what: what.into(),
            advice: String::new(),
            mended: false,
        }
    }

    /// Something that is wrong with the index as a whole.
    pub(super) fn of_index(what: String) -> Self {
        Self::new(Part::Index, INDEX_DIRECTORY, what)
    }

    /// A record of the index that cannot be read, as `what` says.
    pub(crate) fn of_record(what: &str, view: &StoreView) -> Self {
        let mut alone = [Self::of_index(what.to_owned())];
        let directory = view.directory();
        advise(&mut alone, view.superblock(), directory);
        let [alone] = alone;
        alone
    }

    /// What an error of reading the index tells.
    pub(super) fn of_error(directory: &Path, error: &StoreError) -> Self {
        let what = error.to_string();
        let named = named(&directory.display().to_string(), &what);
        let (file, offset) = named.unwrap_or((INDEX_DIRECTORY.into(), None));
        Self {
            offset,
            ..Self::new(Part::Index, file, what)
        }
    }

    /// What an error of opening the index tells, and what else is found out where it does not tell which file it was.
    pub(super) fn of_unopened_index(directory: &Path, error: &StoreError) -> Self {
        let mut damaged = Self::of_error(directory, error);
        if damaged.file != INDEX_DIRECTORY {
            return damaged;
        }
        let path = directory.join(INDEX_DIRECTORY);
        let manifest = fs::read_to_string(path.join("CURRENT")).ok();
        let manifest = manifest.and_then(|text| text.strip_suffix('\n').map(str::to_owned));
        let is_there = |name: &String| name.starts_with("MANIFEST-") && path.join(name).is_file();
        let Some(manifest) = manifest.filter(is_there) else {
            damaged.file = format!("{INDEX_DIRECTORY}/CURRENT");
            return damaged;
        };
        match families_with_damaged_tables(&path) {
            None => damaged.file = format!("{INDEX_DIRECTORY}/{manifest}"),
            Some(families) => {
                let families = families.join(", ");
                damaged.what.extend([" (it is a table of ", &families, ")"]);
            }
        }
        damaged
    }

    /// What is wrong with the journal.
    pub(super) fn of_journal(directory: &Path, flaw: Flaw) -> Self {
        let is_checkpoint = flaw.path.extension().is_some_and(|end| end == "checkpoint")
            || flaw.why.contains("checkpoint");
        let part = if is_checkpoint {
            Part::Checkpoint
        } else {
            Part::Log
        };
        Self {
            offset: flaw.offset,
            ..Self::new(part, relative(directory, &flaw.path), flaw.why)
        }
    }

    /// It could not be looked at because this process, or the machine, lacks something that others may give back.
    pub(super) fn is_passing(&self) -> bool {
        // RocksDB tells in words alone.
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
        passing.into_iter().any(|errno| {
            let said = io::Error::from(errno).to_string();
            let said = said.split(" (os error").next().unwrap_or(&said);
            self.what.contains(said)
        })
    }

    /// Which file is damaged, and where.
    pub fn place(&self) -> String {
        match self.offset {
            Some(offset) => format!("{} from byte {offset} on", self.file),
            None => self.file.clone(),
        }
    }
}

/// The first file of `directory` that an error of RocksDB names, and the byte that it names behind that.
fn named(directory: &str, error: &str) -> Option<(String, Option<u64>)> {
    // That is said of the list of tables whatever keeps one of them from being opened.
    let error = error.split("  The file ").next()?;
    let (_, rest) = error.split_once(&format!("{directory}/"))?;
    let end = rest.find(|c: char| c.is_whitespace() || ",:;)".contains(c));
    let (file, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let offset = rest.strip_prefix(" offset ").and_then(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok())
    });
    Some((file.to_owned(), offset))
}

/// Says of each what it means and what to do, by what else is damaged.
pub(super) fn advise(damaged: &mut [DamagedFile], superblock: &Superblock, directory: &Path) {
    // As what looks damaged may be another form, and a repair is refused.
    if superblock.is_of_newer_release() {
        let advice = "a newer release of this program writes to this store, and this one may take what it wrote for damaged: check it \
                      with that release";
        for file in damaged {
            advice.clone_into(&mut file.advice);
        }
        return;
    }
    let has_journal = has_journal(directory, superblock);
    let is_damaged = |parts: &[Part]| damaged.iter().any(|file| parts.contains(&file.part));
    let (index, journal) = (
        is_damaged(&[Part::Index]),
        is_damaged(&[Part::Checkpoint, Part::Log]),
    );
    let repair = format!("pool repair --store {}", directory.display());
    for file in damaged {
        file.advice = match file.part {
            Part::Superblock => {
                "without it the store cannot be opened: check the disk (dmesg, smartctl); a service that runs on the store \
                 writes it anew (pool scrub), else put one back from a copy of the store's directory (what pool backup makes has none)"
                    .to_owned()
            }
            Part::Mark => {
                "without it an older index can pass for the newest: a service that runs on the store writes it anew (pool scrub)"
                    .to_owned()
            }
            Part::Index if !has_journal => {
                "check the disk (dmesg, smartctl), then put the newest index back, or make a store of a backup (pool restore)"
                    .to_owned()
            }
            Part::Index | Part::Checkpoint | Part::Log if index && journal => {
                "neither index nor journal can stand in for the other: make a backup as long as the service can read what it has \
                 (pool backup), check the disk (dmesg, smartctl), and put the newest index or the newest journal back"
                    .to_owned()
            }
            Part::Index => format!(
                "check the disk (dmesg, smartctl), then stop poolsvc and make the index anew from the journal, which is whole: {repair}"
            ),
            Part::Checkpoint | Part::Log => format!(
                "nothing is lost, and a lost index could not be made anew: check the disk (dmesg, smartctl), then stop poolsvc and \
                 begin the journal anew from the index, which is whole: {repair}"
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::{FEATURE_JOURNAL, FORMAT_VERSION};

    #[test]
    fn errors_of_rocksdb_name_files_and_places() {
        let names = |error: &str| named("/var/pool", error);
        let file = |name: &str, offset| Some((name.to_owned(), offset));
        assert_eq!(
            names(
                "scanning the index: Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in \
                 /var/pool/index/000011.sst offset 4711 size 99"
            ),
            file("index/000011.sst", Some(4711))
        );
        assert_eq!(
            names(
                "IO error: No such file or directory: While open: /var/pool/index/000011.sst: No such file"
            ),
            file("index/000011.sst", None)
        );
        assert_eq!(
            names("Corruption: bad (/var/pool/index/MANIFEST-000004)"),
            file("index/MANIFEST-000004", None)
        );
        let unsorted = "Corruption: properties unsorted  The file /var/pool/index/MANIFEST-000004 may be corrupted.";
        assert_eq!(names(unsorted), None);
        assert_eq!(
            names("Corruption: CURRENT file does not end with newline"),
            None
        );
        assert_eq!(names("/var/pool"), None);
    }

    #[test]
    fn what_others_may_give_back_is_no_damage() {
        let is_passing = |what: &str| DamagedFile::new(Part::Index, "a", what).is_passing();
        let of_rocksdb = "opening the index: IO error: While open a file for random read: /a/000023.sst: Too many open files";
        assert!(is_passing(of_rocksdb));
        assert!(is_passing(
            "cannot be read (Cannot allocate memory (os error 12))"
        ));
        assert!(!is_passing(
            "cannot be read (Input/output error (os error 5))"
        ));
        assert!(!is_passing("Corruption: block checksum mismatch"));
    }

    #[test]
    fn what_to_do_goes_by_what_else_is_damaged() {
        let with_features = |parts: &[Part], features: u64| -> Vec<String> {
            let superblock = Superblock {
                version: FORMAT_VERSION,
                compatible: 0,
                read_only_compatible: features,
                incompatible: 0,
                segment_bytes: 64 << 20,
                identity: [7; 16],
            };
            let mut damaged: Vec<_> = parts
                .iter()
                .map(|part| DamagedFile::new(*part, "a", "b"))
                .collect();
            advise(&mut damaged, &superblock, Path::new("/var/pool"));
            damaged.into_iter().map(|file| file.advice).collect()
        };
        let advice = |parts: &[Part], has_journal: bool| {
            with_features(parts, if has_journal { FEATURE_JOURNAL } else { 0 })
        };
        let repair = "pool repair --store /var/pool";
        assert!(advice(&[Part::Index], true)[0].contains(repair));
        assert!(advice(&[Part::Checkpoint], true)[0].contains(repair));
        assert!(advice(&[Part::Log, Part::Mark], true)[0].contains(repair));
        for both in advice(&[Part::Index, Part::Log], true) {
            assert!(
                both.contains("pool backup") && !both.contains(repair),
                "{both}"
            );
        }
        let without = &advice(&[Part::Index], false)[0];
        assert!(without.contains("pool restore") && !without.contains(repair));
        assert!(advice(&[Part::Superblock], true)[0].contains("pool scrub"));
        for newer in with_features(&[Part::Log, Part::Index], FEATURE_JOURNAL | 1 << 40) {
            assert!(
                newer.contains("newer release") && !newer.contains("pool repair"),
                "{newer}"
            );
        }
    }
}
