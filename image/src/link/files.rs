//! From the command line to bytes: finds, reads and classifies the input files.

use std::path::{Path, PathBuf};

use super::archive;
use super::args::{InputFile, LinkRequest, Mark};
use super::compressed;
use super::error::LinkError;
use super::script::{self, Named};
use super::search::{Folders, State};

/// All inputs, and what is done with them.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Each once, in the order in which they are first named.
    pub(super) files: Vec<InputBytes>,
    pub(super) steps: Vec<Step>,
    /// All files that were read, scripts too, in the order of their first use.
    pub(super) paths: Vec<PathBuf>,
}

/// What the command line does with files, by their positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An object is taken.
    Object(usize),
    /// An archive is taken whole.
    Whole(usize),
    /// What is needed is taken out of archives, which are searched in turn until none has more.
    Search(Vec<usize>),
    /// A symbol is defined.
    Define(usize),
}

/// The contents of an input.
#[derive(Debug)]
pub(super) enum InputBytes {
    /// An object of the application.
    Object { name: String, bytes: Vec<u8> },
    /// A library.
    Archive {
        path: PathBuf,
        members: Vec<MemberBytes>,
    },
}

/// A member of a library.
#[derive(Debug)]
pub(super) struct MemberBytes {
    /// `libz.a(adler32.o)`.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// The member with its compressed sections expanded, if it has some.
    expanded: Option<Vec<u8>>,
}

impl MemberBytes {
    fn new(name: String, bytes: Vec<u8>) -> Result<Self, LinkError> {
        let expanded = compressed::expand(&name, &bytes)?;
        Ok(Self {
            name,
            bytes,
            expanded,
        })
    }

    /// What is to be linked.
    pub(super) fn object(&self) -> &[u8] {
        self.expanded.as_deref().unwrap_or(&self.bytes)
    }
}

/// Reads what `request` names. An archive named twice is read once and searched twice, an empty one is not
/// there at all.
pub(super) fn read(request: &LinkRequest) -> Result<Inputs, LinkError> {
    let mut reader = Reader {
        folders: Folders::of(request),
        found: Inputs::default(),
        seen: Vec::new(),
        group: Vec::new(),
        groups: 0,
        state: State::default(),
        states: Vec::new(),
    };
    for input in &request.inputs {
        match input {
            InputFile::Path(path) => reader.file(path, 0)?,
            InputFile::Library(name) => reader.library(name, 0)?,
            InputFile::Mark(mark) => reader.mark(*mark)?,
        }
    }
    if reader.groups > 0 {
        return Err(LinkError::option(
            "--start-group",
            "has no end: add --end-group",
        ));
    }
    Ok(reader.found)
}

struct Reader<'r> {
    folders: Folders<'r>,
    found: Inputs,
    /// Archives read so far, by real path; `None` for one that is empty.
    seen: Vec<(PathBuf, Option<usize>)>,
    /// Archives of the group that is open, and how many are, one within the other.
    group: Vec<usize>,
    groups: usize,
    state: State,
    states: Vec<State>,
}

impl Reader<'_> {
    fn mark(&mut self, mark: Mark) -> Result<(), LinkError> {
        match mark {
            Mark::Whole(whole) => self.state.whole = whole,
            Mark::Dynamic(dynamic) => self.state.dynamic = dynamic,
            Mark::Define(definition) => self.found.steps.push(Step::Define(definition)),
            Mark::Push => self.states.push(self.state),
            Mark::Pop => {
                self.state = self.states.pop().ok_or_else(|| {
                    LinkError::option("--pop-state", "there is no --push-state before it")
                })?;
            }
            Mark::GroupStart => self.groups += 1,
            Mark::GroupEnd => {
                self.groups = self.groups.checked_sub(1).ok_or_else(|| {
                    LinkError::option("--end-group", "there is no --start-group before it")
                })?;
                if self.groups == 0 && !self.group.is_empty() {
                    let group = std::mem::take(&mut self.group);
                    self.found.steps.push(Step::Search(group));
                }
            }
        }
        Ok(())
    }

    /// An archive is named.
    fn search(&mut self, file: usize) {
        if self.state.whole {
            self.found.steps.push(Step::Whole(file));
            return;
        }
        self.found.steps.push(Step::Search(vec![file]));
        if self.groups > 0 && !self.group.contains(&file) {
            self.group.push(file);
        }
    }

    fn library(&mut self, name: &str, depth: usize) -> Result<(), LinkError> {
        let found = self.folders.library(name, self.state.dynamic);
        let path = found.ok_or_else(|| LinkError::NoLibrary {
            name: name.to_owned(),
            searched: self.folders.listed(),
        })?;
        self.file(&path, depth)
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<(), LinkError> {
        let bytes = read_file(path)?;
        if !self.found.paths.iter().any(|known| known == path) {
            self.found.paths.push(path.to_owned());
        }
        let name = path.display().to_string();
        if bytes.starts_with(archive::MAGIC) || bytes.starts_with(archive::THIN_MAGIC) {
            return self.archive(path, &bytes);
        }
        if script::is_text(&bytes) {
            return self.script(path, &bytes, depth);
        }
        let bytes = compressed::expand(&name, &bytes)?.unwrap_or(bytes);
        self.found.steps.push(Step::Object(self.found.files.len()));
        self.found.files.push(InputBytes::Object { name, bytes });
        Ok(())
    }

    fn archive(&mut self, path: &Path, bytes: &[u8]) -> Result<(), LinkError> {
        let real = path.canonicalize().map_err(|source| LinkError::Read {
            path: path.to_owned(),
            source,
        })?;
        if let Some((_, known)) = self.seen.iter().find(|(path, _)| *path == real) {
            if let Some(file) = *known {
                self.search(file);
            }
            return Ok(());
        }
        let file = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut members = Vec::new();
        for member in archive::members(&file, bytes)? {
            let contents = match member.bytes {
                Some(range) => bytes[range].to_vec(),
                None => read_file(&folder.join(&member.name))?,
            };
            members.push(MemberBytes::new(
                format!("{file}({})", member.name),
                contents,
            )?);
        }
        let file = (!members.is_empty()).then_some(self.found.files.len());
        self.seen.push((real, file));
        if let Some(file) = file {
            self.found.files.push(InputBytes::Archive {
                path: path.to_owned(),
                members,
            });
            self.search(file);
        }
        Ok(())
    }

    fn script(&mut self, path: &Path, bytes: &[u8], depth: usize) -> Result<(), LinkError> {
        let file = path.display().to_string();
        if depth >= script::MOST_NESTED {
            return Err(LinkError::input(
                file,
                "linker scripts name each other in a circle",
            ));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| LinkError::input(&file, "neither an ELF object nor text"))?;
        for named in script::files(&file, text)? {
            match named {
                Named::GroupStart => self.mark(Mark::GroupStart)?,
                Named::GroupEnd => self.mark(Mark::GroupEnd)?,
                Named::Library(name) => self.library(&name, depth + 1)?,
                Named::File(name) => {
                    let path = self.folders.script_file(path, &name)?;
                    self.file(&path, depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, LinkError> {
    std::fs::read(path).map_err(|source| LinkError::Read {
        path: path.to_owned(),
        source,
    })
}
