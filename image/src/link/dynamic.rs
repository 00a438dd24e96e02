//! Links that take a shared library: as GNU ld does it, `-lNAME` is one unless `-static` or `-Bstatic` stands before it.
//! What is linked with one is no static executable.

use std::path::Path;

use super::args::{InputFile, LinkRequest, Mark};
use super::error::LinkError;
use super::script::{self, Named};
use super::search::{Folders, State};
use super::start::Start;

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
            InputFile::Path(_)
            | InputFile::Script(_)
            | InputFile::Library(_)
            | InputFile::Mark(_) => {}
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
    let start = Start::of(path);
    if start.is_shared_library() {
        return Err(LinkError::not_static(
            path.display().to_string(),
            "a shared library: pool link makes static executables; add -static to the compiler's command line",
        ));
    }
    let text = if script::is_text(start.bytes()) && depth < script::MOST_NESTED {
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
