//! From the command line to bytes: finds, reads and classifies the input files.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive;
use super::args::{InputFile, LibraryAlias, LinkRequest, Mark};
use super::compressed;
use super::error::LinkError;
use super::hash::HashSet;
use super::intermediate::CodeSymbol;
use super::library;
use super::own;
use super::script::{self, Named};
use super::search::{Folders, State};
use super::source::Source;
use super::tables::Tables;

/// All inputs, and what is done with them.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Each once, in the order in which they are first named.
    pub(super) files: Vec<InputBytes>,
    pub(super) steps: Vec<Step>,
    /// What scripts gather (`-T`).
    pub(super) tables: Tables,
    /// Signatures of groups of which compiled code has the copy that counts.
    pub(super) held: HashSet<String>,
    /// All files that were read, scripts too, in the order of their first use.
    pub(super) paths: Vec<PathBuf>,
}

/// What the command line does with files, by their positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An object, or what was made of it, is taken.
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
    /// An object of the application; several where a compiler made some of one.
    Objects(Vec<ObjectBytes>),
    /// A library.
    Archive {
        path: PathBuf,
        members: Vec<MemberBytes>,
    },
}

/// What is taken of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Code {
    /// Its machine code.
    #[default]
    Machine,
    /// Intermediate code, of which these symbols are known.
    Intermediate(Vec<CodeSymbol>),
    /// Nothing: it was compiled, and what was made of it stands elsewhere.
    Compiled,
}

/// An object of the application.
#[derive(Debug)]
pub(super) struct ObjectBytes {
    pub(super) name: String,
    /// As the file has them, but for compressed sections, which are expanded.
    pub(super) bytes: Vec<u8>,
    pub(super) source: Source,
    pub(super) code: Code,
    /// A compiler made it of intermediate code.
    pub(super) is_made: bool,
}

/// Bytes of a file, which those of other members may be, too.
#[derive(Clone, Debug)]
pub(super) struct FileBytes {
    file: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        let file = Arc::new(bytes);
        Self { file, range }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

/// A member of a library.
#[derive(Debug)]
pub(super) struct MemberBytes {
    /// `libz.a(adler32.o)`.
    pub(super) name: String,
    pub(super) bytes: FileBytes,
    /// The member with its compressed sections expanded, if it has some.
    expanded: Option<Vec<u8>>,
    pub(super) source: Source,
    pub(super) code: Code,
    /// It is in the program whether something needs it or not.
    pub(super) is_taken: bool,
}

impl MemberBytes {
    fn new(name: String, bytes: FileBytes, source: Source) -> Result<Self, LinkError> {
        let expanded = compressed::expand(&name, &bytes)?;
        Ok(Self {
            name,
            bytes,
            expanded,
            source,
            code: Code::default(),
            is_taken: false,
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
    let mut reader = Reader::new(request, Inputs::default());
    // What objects are to the link may be said behind them.
    for input in &request.inputs {
        if let InputFile::Script(path) = input {
            reader.tables(path)?;
        }
    }
    for input in &request.inputs {
        match input {
            InputFile::Path(path) => reader.file(path, 0)?,
            InputFile::Library(name) => reader.library(name, 0)?,
            InputFile::Script(path) => {
                let path = reader.folders.found(path);
                reader.note(&path);
            }
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

/// Names further libraries behind all else. One that is there already is searched once more by that.
pub(super) fn add_libraries(
    request: &LinkRequest,
    inputs: &mut Inputs,
    names: &[String],
) -> Result<(), LinkError> {
    let mut reader = Reader::new(request, std::mem::take(inputs));
    reader.state.dynamic = false;
    for name in names {
        reader.library(name, 0)?;
    }
    *inputs = reader.found;
    Ok(())
}

/// Reads an object that a compiler made of intermediate code.
pub(super) fn made_object(path: &Path) -> Result<ObjectBytes, LinkError> {
    let object = object_of(path, read_file(path)?)?;
    Ok(ObjectBytes {
        is_made: true,
        ..object
    })
}

fn object_of(path: &Path, bytes: Vec<u8>) -> Result<ObjectBytes, LinkError> {
    let name = path.display().to_string();
    let source = Source {
        path: path.to_owned(),
        offset: 0,
        size: bytes.len() as u64,
    };
    let bytes = compressed::expand(&name, &bytes)?.unwrap_or(bytes);
    Ok(ObjectBytes {
        name,
        bytes,
        source,
        code: Code::default(),
        is_made: false,
    })
}

struct Reader<'r> {
    folders: Folders<'r>,
    /// Files that are libraries because a person says so.
    named: &'r [LibraryAlias],
    found: Inputs,
    /// Archives read so far, by real path; `None` for one that is empty.
    seen: Vec<(PathBuf, Option<usize>)>,
    /// Archives of the group that is open, and how many are, one within the other.
    group: Vec<usize>,
    groups: usize,
    state: State,
    states: Vec<State>,
}

impl<'r> Reader<'r> {
    fn new(request: &'r LinkRequest, found: Inputs) -> Self {
        Self {
            folders: Folders::of(request),
            named: &request.libraries,
            found,
            seen: Vec::new(),
            group: Vec::new(),
            groups: 0,
            state: State::default(),
            states: Vec::new(),
        }
    }

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

    /// A script that adds to the usual one.
    fn tables(&mut self, path: &Path) -> Result<(), LinkError> {
        let path = self.folders.found(path);
        let text = String::from_utf8(read_file(&path)?);
        let file = path.display().to_string();
        let text = text.map_err(|_| LinkError::input(&file, "not text, and no linker script"))?;
        self.found.tables.read(&file, &text)
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<(), LinkError> {
        // What has no path, a pipe, can be an object.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let seen = self.seen.iter().find(|(path, _)| *path == real);
        if let Some((_, file)) = seen {
            if let Some(file) = *file {
                self.search(file);
            }
            self.note(path);
            return Ok(());
        }
        let bytes = FileBytes::from(read_file(path)?);
        self.note(path);
        if bytes.starts_with(archive::MAGIC) || bytes.starts_with(archive::THIN_MAGIC) {
            return self.archive(path, real, &bytes);
        }
        if script::is_text(&bytes) {
            return self.script(path, &bytes, depth);
        }
        let is_unikraft = self.found.tables.are_of_unikraft();
        if is_unikraft && own::is_library_of_unikraft(path)
            || library::alias(path, self.named).is_some()
        {
            return self.object_library(path, bytes);
        }
        let object = object_of(path, Arc::unwrap_or_clone(bytes.file))?;
        self.found.steps.push(Step::Object(self.found.files.len()));
        self.found.files.push(InputBytes::Objects(vec![object]));
        Ok(())
    }

    /// An object that is a library, because a person says so or as a build leaves one for each of its parts (`ld -r`): it has one
    /// member, which is in the program as any object is.
    fn object_library(&mut self, path: &Path, bytes: FileBytes) -> Result<(), LinkError> {
        let source = Source {
            path: path.to_owned(),
            offset: 0,
            size: bytes.len() as u64,
        };
        let member = MemberBytes::new(path.display().to_string(), bytes, source)?;
        self.found.steps.push(Step::Whole(self.found.files.len()));
        self.found.files.push(InputBytes::Archive {
            path: path.to_owned(),
            members: vec![member],
        });
        Ok(())
    }

    /// A file that was read, for who asks which those are.
    fn note(&mut self, path: &Path) {
        if !self.found.paths.iter().any(|known| known == path) {
            self.found.paths.push(path.to_owned());
        }
    }

    fn archive(&mut self, path: &Path, real: PathBuf, bytes: &FileBytes) -> Result<(), LinkError> {
        let file = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut members = Vec::new();
        for member in archive::members(&file, bytes)? {
            let (of, offset, contents) = if let Some(range) = member.bytes {
                let contents = FileBytes {
                    file: Arc::clone(&bytes.file),
                    range: range.clone(),
                };
                (path.to_owned(), range.start, contents)
            } else {
                let path = folder.join(&member.name);
                let contents = read_file(&path)?;
                (path, 0, FileBytes::from(contents))
            };
            let source = Source {
                path: of,
                offset: offset as u64,
                size: contents.len() as u64,
            };
            let name = format!("{file}({})", member.name);
            members.push(MemberBytes::new(name, contents, source)?);
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
