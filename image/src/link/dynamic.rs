//! Links that take a shared library: as GNU ld does it, `-lNAME` is one unless `-static` or `-Bstatic` stands before it.
//! What is linked with one is no static executable.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_DYN};

use super::args::{InputFile, LinkRequest, Mark};
use super::error::LinkError;
use super::files::MAX_SCRIPT_DEPTH;
use super::script::{self, Named};
use super::search::{Folders, State};

/// Bytes of a file's start by which its kind is told.
const START: u64 = 256;

/// Refuses (as [`LinkError::NotStatic`]) what is linked with a shared library. Files that are not there or not
/// readable are passed over.
pub fn refuse_shared_libraries(request: &LinkRequest) -> Result<(), LinkError> {
    let folders = Folders::of(request);
    let mut state = State::default();
    let mut states = Vec::new();
    for input in &request.inputs {
        match input {
            InputFile::Mark(Mark::Dynamic(dynamic)) => state.dynamic = *dynamic,
            InputFile::Mark(Mark::Push) => states.push(state),
            InputFile::Mark(Mark::Pop) => state = states.pop().unwrap_or(state),
            InputFile::Path(path) if state.dynamic => look(&folders, path, 0)?,
            InputFile::Library(name) if state.dynamic => library(&folders, name, 0)?,
            InputFile::Path(_) | InputFile::Library(_) | InputFile::Mark(_) => {}
        }
    }
    Ok(())
}

fn library(folders: &Folders<'_>, name: &str, depth: usize) -> Result<(), LinkError> {
    match folders.library(name, true) {
        Some(path) => look(folders, &path, depth),
        None => Ok(()),
    }
}

fn look(folders: &Folders<'_>, path: &Path, depth: usize) -> Result<(), LinkError> {
    let start = start_of(path);
    if is_for_this_machine(&start) && field(&start, 16) == Some(ET_DYN) {
        return Err(LinkError::not_static(
            path.display().to_string(),
            "a shared library: pool link makes static executables; add -static to the compiler's command line",
        ));
    }
    let text = if script::is_text(&start) && depth < MAX_SCRIPT_DEPTH {
        std::fs::read_to_string(path).ok()
    } else {
        None
    };
    let named = text.and_then(|text| script::files(&path.display().to_string(), &text).ok());
    for named in named.into_iter().flatten() {
        match named {
            Named::Library(name) => library(folders, &name, depth + 1)?,
            Named::File(name) => {
                if let Ok(file) = folders.script_file(path, &name) {
                    look(folders, &file, depth + 1)?;
                }
            }
            Named::GroupStart | Named::GroupEnd => {}
        }
    }
    Ok(())
}

/// The first bytes of a file; none of one that cannot be read.
pub(super) fn start_of(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    // Whoever reads it all says what is wrong with it.
    let _ = File::open(path).and_then(|file| file.take(START).read_to_end(&mut start));
    start
}

pub(super) fn is_for_this_machine(start: &[u8]) -> bool {
    let class = start.get(EI_CLASS).zip(start.get(EI_DATA));
    start.starts_with(b"\x7fELF")
        && class == Some((&ELFCLASS64, &ELFDATA2LSB))
        && field(start, 18) == Some(EM_X86_64)
}

fn field(start: &[u8], at: usize) -> Option<u16> {
    let bytes = start.get(at..at + 2)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}
