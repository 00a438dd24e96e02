//! The system's own linker, for what `pool link` does not make.
//!
//! `pool` may be the `ld` that a compiler finds first, and on `PATH` as well: it is told by what file it is, not by
//! its name. A script that calls `pool` in turn is told by a note in the environment.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use pool_image::link::LinkError;

/// Names the linker; otherwise it is looked for.
const NAMED: &str = "POOL_SYSTEM_LINKER";
/// Who was tried: the process, and then the files, by device and inode.
const TRIED: &str = "POOL_LINKERS_TRIED";
/// Most linkers that may hand on to each other.
const MOST: usize = 32;

/// Where a linker is, whatever `PATH` says.
const USUAL: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];

/// What a file is, whatever it is called.
type Identity = (u64, u64);

/// Becomes the system's linker, because of `reason`; comes back only when that fails.
pub(super) fn run(arguments: &[OsString], reason: &LinkError) -> anyhow::Error {
    let context = || format!("{reason}; handing it to the system's linker");
    let found = match find().with_context(context) {
        Ok(found) => found,
        Err(error) => return error,
    };
    let error = command(&found).args(arguments).exec();
    let failed = anyhow!("running {}: {error}", found.path.display());
    failed.context(context())
}

/// What the system's linker prints when asked; nothing when there is none.
pub(super) fn says(question: &[&str]) -> Option<String> {
    let found = find().ok()?;
    let asked = command(&found)
        .args(question)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(asked.stdout).ok()?;
    (asked.status.success() && !text.is_empty()).then_some(text)
}

struct Found {
    path: PathBuf,
    tried: Vec<Identity>,
}

fn command(found: &Found) -> Command {
    let files = found.tried.iter();
    let files: Vec<String> = files.map(|(d, i)| format!("{d}:{i}")).collect();
    let mut command = Command::new(&found.path);
    command.env(TRIED, format!("{} {}", id(), files.join(" ")));
    command
}

fn find() -> Result<Found> {
    let own = identity(Path::new("/proc/self/exe")).context("looking at /proc/self/exe")?;
    let (mut tried, is_ours) = tried();
    ensure!(
        tried.len() < MOST,
        "the linkers found hand on to each other: set {NAMED} to the system's linker"
    );
    let skipped: Vec<Identity> = if is_ours { tried.clone() } else { Vec::new() };
    let is_other =
        |path: &Path| identity(path).filter(|found| *found != own && !skipped.contains(found));
    if let Some(named) = std::env::var_os(NAMED).filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        let Some(found) = is_other(&path) else {
            bail!(
                "{NAMED} names {}, which is {}: set it to the system's linker",
                path.display(),
                if path.exists() {
                    "pool itself"
                } else {
                    "not there"
                }
            );
        };
        tried.extend([own, found]);
        return Ok(Found { path, tried });
    }
    let called = std::env::args_os().next().unwrap_or_default();
    for name in names(&called) {
        for folder in folders() {
            let path = folder.join(&name);
            if !is_program(&path) {
                continue;
            }
            if let Some(found) = is_other(&path) {
                tried.extend([own, found]);
                return Ok(Found { path, tried });
            }
        }
    }
    bail!("there is no ld but pool itself in PATH: install binutils, or set {NAMED} to a linker")
}

/// What the linker is called: as we are, and else `ld`.
fn names(called: &OsStr) -> Vec<OsString> {
    let name = Path::new(called).file_name().and_then(OsStr::to_str);
    let name = name.filter(|_| crate::called_as_linker(&[called.to_owned()]));
    let name = name.map(|name| name.strip_suffix(".pool").unwrap_or(name));
    let mut names = vec![OsString::from("ld")];
    if let Some(name) = name.filter(|name| *name != "ld") {
        names.insert(0, name.into());
    }
    names
}

/// Where the compiler that called us looks, where a shell does, and the usual ones.
fn folders() -> Vec<PathBuf> {
    let listed = ["COMPILER_PATH", "PATH"]
        .into_iter()
        .filter_map(std::env::var_os);
    let mut folders: Vec<PathBuf> = listed
        .flat_map(|list| std::env::split_paths(&list).collect::<Vec<_>>())
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    folders.extend(USUAL.map(PathBuf::from));
    folders
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Who was tried, and whether that led to this process: through a program that became this one, or that called it.
/// A linker of a build within a link has another history.
fn tried() -> (Vec<Identity>, bool) {
    let note = std::env::var_os(TRIED).unwrap_or_default();
    let note = String::from_utf8_lossy(note.as_bytes()).into_owned();
    let mut words = note.split(' ');
    let process = words.next().and_then(|word| word.parse::<u32>().ok());
    let is_ours = process.is_some_and(|process| process == id() || process == parent_id());
    let files = words.filter_map(|word| {
        let (device, inode) = word.split_once(':')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    });
    (files.collect(), is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_called_as_we_are() {
        for (called, expected) in [
            ("/x/ld", vec!["ld"]),
            ("ld.pool", vec!["ld"]),
            ("pool", vec!["ld"]),
            ("/x/ld.bfd", vec!["ld.bfd", "ld"]),
            ("aarch64-linux-gnu-ld", vec!["aarch64-linux-gnu-ld", "ld"]),
            (
                "aarch64-linux-gnu-ld.pool",
                vec!["aarch64-linux-gnu-ld", "ld"],
            ),
        ] {
            assert_eq!(names(OsStr::new(called)), expected, "{called}");
        }
    }
}
