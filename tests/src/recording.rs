//! What recorders of power cuts have in common, be it of a [disk](crate::power) or of [files](crate::recorded): what they were asked
//! for, in order, and how far the program under test had come by then.
//!
//! That is beside each request the length of the *journal*, a file elsewhere to which the program adds a line when it is told that
//! something is done. So it is known what must have survived which cut.
//!
//! A recording can be saved: two runs are never asked the same, so it is what a failure is replayed from.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// Names of a saved recording's files: requests, a line each, the bytes that were written, and the journal.
const REQUESTS: &str = "requests";
const DATA: &str = "data";
const JOURNAL: &str = "journal";

/// What is kept of unsynced writes at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// Every other write or so.
    Writes,
    /// Every other sector or so.
    Sectors,
}

/// Something that a recorder is asked for.
pub(crate) trait Asked: Sized {
    /// It in words, and what is written by it.
    fn save(&self) -> (Value, &[u8]);
    /// What was saved so; `None` of anything else.
    fn load(saved: &Value, written: Box<[u8]>) -> Option<Self>;
}

/// Notes requests.
#[derive(Debug)]
pub(crate) struct Recorder<T> {
    journal: PathBuf,
    requests: Requests<T>,
}

impl<T> Recorder<T> {
    /// `journal` is looked at for its length.
    pub(crate) fn new(journal: PathBuf) -> Self {
        Self {
            journal,
            requests: Requests::default(),
        }
    }

    pub(crate) fn note(&mut self, asked: T) {
        let journal = fs::metadata(&self.journal).map_or(0, |journal| journal.len());
        self.requests.push(journal, asked);
    }

    /// Requests so far.
    pub(crate) fn len(&self) -> usize {
        self.requests.asked.len()
    }

    /// All of them; from now on none is of these.
    pub(crate) fn take(&mut self) -> Requests<T> {
        std::mem::take(&mut self.requests)
    }
}

/// Everything that was asked for, in order.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    asked: Vec<T>,
    course: Course,
}

/// How long the journal was at each request.
#[derive(Clone, Debug, Default)]
pub struct Course(Vec<u64>);

impl Course {
    /// Requests.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of the journal that were there when the power went after so many requests.
    pub fn journal(&self, requests: usize) -> u64 {
        self.0[requests.min(self.0.len() - 1)]
    }
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self {
            asked: Vec::new(),
            course: Course::default(),
        }
    }
}

impl<T> Requests<T> {
    pub(crate) fn push(&mut self, journal: u64, asked: T) {
        self.course.0.push(journal);
        self.asked.push(asked);
    }

    pub(crate) fn course(&self) -> &Course {
        &self.course
    }

    /// What came before a cut after so many.
    pub(crate) fn until(&self, requests: usize) -> &[T] {
        &self.asked[..requests]
    }
}

impl<T: Asked> Requests<T> {
    /// Saves them and what the journal said in a directory, which is made; `about` is whatever else is to be known.
    pub(crate) fn save(&self, to: &Path, about: &Value, journal: &str) -> Result<()> {
        let save = || -> std::io::Result<()> {
            fs::create_dir_all(to)?;
            fs::write(to.join(JOURNAL), journal)?;
            let mut lines = BufWriter::new(File::create(to.join(REQUESTS))?);
            let mut data = BufWriter::new(File::create(to.join(DATA))?);
            writeln!(lines, "{about}")?;
            for (asked, journal) in self.asked.iter().zip(&self.course.0) {
                let (saved, written) = asked.save();
                let line = json!({"journal": journal, "asked": saved, "bytes": written.len()});
                writeln!(lines, "{line}")?;
                data.write_all(written)?;
            }
            lines.flush()?;
            data.flush()
        };
        save().with_context(|| format!("saving a recording in {}", to.display()))
    }

    /// What was saved so: `about`, the requests, and what the journal said.
    pub(crate) fn load(from: &Path) -> Result<(Value, Self, String)> {
        let load = || -> Result<_> {
            let journal = fs::read_to_string(from.join(JOURNAL))?;
            let mut lines = BufReader::new(File::open(from.join(REQUESTS))?).lines();
            let mut data = BufReader::new(File::open(from.join(DATA))?);
            let about = serde_json::from_str(&lines.next().context("it is empty")??)?;
            let mut requests = Self::default();
            for line in lines {
                let line: Value = serde_json::from_str(&line?)?;
                let number = |name: &str| line[name].as_u64().context("a number is missing");
                let mut written = vec![0; number("bytes")? as usize].into_boxed_slice();
                data.read_exact(&mut written)?;
                let asked = T::load(&line["asked"], written);
                let asked = asked.with_context(|| format!("{line} is of another kind"))?;
                requests.push(number("journal")?, asked);
            }
            Ok((about, requests, journal))
        };
        load().with_context(|| format!("reading the recording in {}", from.display()))
    }
}

/// A recording that can be kept and replayed.
pub trait Recorded: Sized {
    /// How long the journal was at each request.
    fn course(&self) -> &Course;
    /// Saves it, and what the journal said, in a directory, which is made.
    fn save(&self, to: &Path, journal: &str) -> Result<()>;
    /// What was saved so.
    fn load(from: &Path) -> Result<(Self, String)>;
}

/// Writes a file that has holes where there are zeros.
pub(crate) fn write_sparse(path: &Path, content: &[u8]) -> std::io::Result<()> {
    const PIECE: usize = 64 << 10;
    let file = File::create(path)?;
    file.set_len(content.len() as u64)?;
    for (nth, piece) in content.chunks(PIECE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (nth * PIECE) as u64)?;
        }
    }
    Ok(())
}
