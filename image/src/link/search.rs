//! Where the files are that a command line names without their folders.

use std::path::{Path, PathBuf};

use super::args::LinkRequest;
use super::error::LinkError;
use super::start::Start;

/// What holds for the files that follow on a command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// Archives are taken whole.
    pub(super) whole: bool,
    /// `-lNAME` may be a shared library.
    pub(super) dynamic: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            whole: false,
            dynamic: true,
        }
    }
}

/// Where libraries are on systems for x86-64: GNU ld's own script on Debian has these (`ld --verbose`).
const USUAL: [&str; 12] = [
    "/usr/local/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu64",
    "/usr/local/lib64",
    "/lib64",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/usr/lib",
    "/usr/x86_64-linux-gnu/lib64",
    "/usr/x86_64-linux-gnu/lib",
];

/// The folders that are searched.
#[derive(Debug)]
pub(super) struct Folders<'r> {
    request: &'r LinkRequest,
    all: Vec<PathBuf>,
}

impl<'r> Folders<'r> {
    pub(super) fn of(request: &'r LinkRequest) -> Self {
        let mut all = request.search.clone();
        if request.usual_folders {
            let root = request.sysroot.as_deref().unwrap_or(Path::new("/"));
            all.extend(USUAL.map(|folder| root.join(folder.trim_start_matches('/'))));
        }
        Self { request, all }
    }

    /// The file that `-lNAME` means. A shared library counts before an archive in the same folder, and one for another
    /// machine is passed over.
    pub(super) fn library(&self, name: &str, dynamic: bool) -> Option<PathBuf> {
        let files = match name.strip_prefix(':') {
            Some(exact) => vec![exact.to_owned()],
            None if dynamic => vec![format!("lib{name}.so"), format!("lib{name}.a")],
            None => vec![format!("lib{name}.a")],
        };
        let paths = self
            .all
            .iter()
            .flat_map(|folder| files.iter().map(|file| folder.join(file)));
        let mut there = paths.filter(|path| path.is_file());
        there.find(|path| !Start::of(path).is_for_another_machine())
    }

    /// A file that is named as it is, or is in a search folder.
    pub(super) fn found(&self, name: &Path) -> PathBuf {
        let inside = self.all.iter().map(|folder| folder.join(name));
        let mut all = std::iter::once(name.to_owned()).chain(inside);
        let found = all.find(|path| path.is_file());
        found.unwrap_or_else(|| name.to_owned())
    }

    /// A file that a script names: beside the script, as it is, in a search folder, or absolute (in the
    /// sysroot, if the script is, or if it says so by `=` or `$SYSROOT`).
    pub(super) fn script_file(&self, script: &Path, name: &str) -> Result<PathBuf, LinkError> {
        let root = self.request.sysroot.as_deref();
        if let Some(inside) = name.strip_prefix('=').or(name.strip_prefix("$SYSROOT")) {
            let inside = inside.trim_start_matches('/');
            return Ok(root.unwrap_or(Path::new("/")).join(inside));
        }
        if let Some(inside) = name.strip_prefix('/') {
            let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
            return Ok(match root {
                Some(root) if real(script).starts_with(real(root)) => root.join(inside),
                _ => PathBuf::from(name),
            });
        }
        let beside = script.parent().unwrap_or(Path::new("")).join(name);
        [beside, PathBuf::from(name)]
            .into_iter()
            .chain(self.all.iter().map(|folder| folder.join(name)))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                LinkError::input(
                    script.display().to_string(),
                    format!("names {name}, which is in no search folder: add -L with its folder"),
                )
            })
    }

    /// For messages.
    pub(super) fn listed(&self) -> String {
        let folders = self.all.iter().map(|folder| folder.display().to_string());
        let folders: Vec<String> = folders.collect();
        if folders.is_empty() {
            "no folder (there is no -L)".to_owned()
        } else {
            folders.join(", ")
        }
    }
}
