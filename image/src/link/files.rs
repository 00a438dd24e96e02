//! From the command line to bytes: finds, reads and classifies the input files.

use std::path::{Path, PathBuf};

use super::archive;
use super::args::{InputFile, LinkRequest};
use super::error::LinkError;
use super::script::{self, Named};

/// The contents of all inputs, in command-line order.
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
}

/// Most scripts that may name each other.
const MAX_SCRIPT_DEPTH: usize = 8;

/// Reads what `request` names. An archive named twice is taken once, an empty one not at all.
pub(super) fn read(request: &LinkRequest) -> Result<Vec<InputBytes>, LinkError> {
    let mut reader = Reader {
        request,
        found: Vec::new(),
        seen: Vec::new(),
    };
    for input in &request.inputs {
        match input {
            InputFile::Path(path) => reader.file(path, 0)?,
            InputFile::Library(name) => reader.library(name, 0)?,
        }
    }
    Ok(reader.found)
}

struct Reader<'r> {
    request: &'r LinkRequest,
    found: Vec<InputBytes>,
    /// Archives read so far, by real path.
    seen: Vec<PathBuf>,
}

impl Reader<'_> {
    fn library(&mut self, name: &str, depth: usize) -> Result<(), LinkError> {
        let file = match name.strip_prefix(':') {
            Some(exact) => exact.to_owned(),
            None => format!("lib{name}.a"),
        };
        let path = self.request.search.iter().map(|folder| folder.join(&file));
        let Some(path) = path.into_iter().find(|path| path.is_file()) else {
            let folders: Vec<_> = self
                .request
                .search
                .iter()
                .map(|f| f.display().to_string())
                .collect();
            return Err(LinkError::NoLibrary {
                name: name.to_owned(),
                searched: if folders.is_empty() {
                    "no folder (there is no -L)".to_owned()
                } else {
                    folders.join(", ")
                },
            });
        };
        self.file(&path, depth)
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<(), LinkError> {
        let bytes = read_file(path)?;
        let name = path.display().to_string();
        if bytes.starts_with(archive::MAGIC) || bytes.starts_with(archive::THIN_MAGIC) {
            return self.archive(path, &bytes);
        }
        if script::is_text(&bytes) {
            return self.script(path, &bytes, depth);
        }
        self.found.push(InputBytes::Object { name, bytes });
        Ok(())
    }

    fn archive(&mut self, path: &Path, bytes: &[u8]) -> Result<(), LinkError> {
        let real = path.canonicalize().map_err(|source| LinkError::Read {
            path: path.to_owned(),
            source,
        })?;
        if self.seen.contains(&real) {
            return Ok(());
        }
        self.seen.push(real);
        let file = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut members = Vec::new();
        for member in archive::members(&file, bytes)? {
            members.push(MemberBytes {
                name: format!("{file}({})", member.name),
                bytes: match member.bytes {
                    Some(range) => bytes[range].to_vec(),
                    None => read_file(&folder.join(&member.name))?,
                },
            });
        }
        if !members.is_empty() {
            self.found.push(InputBytes::Archive {
                path: path.to_owned(),
                members,
            });
        }
        Ok(())
    }

    fn script(&mut self, path: &Path, bytes: &[u8], depth: usize) -> Result<(), LinkError> {
        let file = path.display().to_string();
        if depth >= MAX_SCRIPT_DEPTH {
            return Err(LinkError::input(
                file,
                "linker scripts name each other in a circle",
            ));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| LinkError::input(&file, "neither an ELF object nor text"))?;
        for named in script::files(&file, text)? {
            match named {
                Named::Library(name) => self.library(&name, depth + 1)?,
                Named::File(name) => {
                    let path = self.script_file(path, &name)?;
                    self.file(&path, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    /// A file that a script names: beside the script, in a search folder, or absolute (in the
    /// sysroot, if the script is).
    fn script_file(&self, script: &Path, name: &str) -> Result<PathBuf, LinkError> {
        let absolute = name.strip_prefix('/');
        if let Some(inside) = absolute {
            return Ok(match &self.request.sysroot {
                Some(root) if script.starts_with(root) => root.join(inside),
                _ => PathBuf::from(name),
            });
        }
        let beside = script.parent().unwrap_or(Path::new("")).join(name);
        std::iter::once(beside)
            .chain(self.request.search.iter().map(|folder| folder.join(name)))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                LinkError::input(
                    script.display().to_string(),
                    format!("names {name}, which is in no search folder: add -L with its folder"),
                )
            })
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, LinkError> {
    std::fs::read(path).map_err(|source| LinkError::Read {
        path: path.to_owned(),
        source,
    })
}
