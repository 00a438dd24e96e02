//! A finished build directory of Unikraft, linked once more.
//!
//! Unikraft's make keeps each command that it runs beside what the command makes: `IMAGE.dbg.cmd` links, `IMAGE.cmd`
//! strips what was linked, `IMAGE.bootinfo.cmd` tells the image where its own parts are. So the link is done again with `pool`
//! for a linker, and what comes behind it as it was. Nothing is run but what make has run there before.
//!
//! Each library is one object, `LIBRARY.o`, which make has made of many: `LIBRARY.ld.o.cmd` puts them together (`ld -r`), and
//! `LIBRARY.o.cmd` hides what others are not to see. That leaves one section of all code, in which what grows moves
//! all that follows. So these are done again, too, with the sections of the many kept apart (`--unique`), to files beside those
//! of make: a library of another configuration keeps the places of what is as it was.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use tempfile::TempDir;

use super::ONLY;
use crate::ending::Ending;
use crate::{Global, LINKERS, output};

/// The option of `pool link` that names one.
pub(super) const OPTION: &str = "--unikraft";

/// Behind an image's name that of what is linked, and of the command that does.
const LINKED: &str = ".dbg";
const LINK: &str = ".dbg.cmd";
/// Those of the commands that come behind it, in order.
const STEPS: [&str; 4] = [".cmd", ".bootinfo.cmd", ".sym.cmd", ".gz.cmd"];

/// Behind a library's name, those of what puts it together and of what hides parts of it, and of what these make.
const PARTIAL: [&str; 2] = [".ld.o", ".o"];
const COMMAND: &str = ".cmd";
/// Where the shell finds the folder for libraries that are made again.
const FOLDER: &str = "POOL_LIBRARIES";
/// In that folder the one in which this program is by all names of linkers.
const LINKER_NAMES: &str = "linkers";
/// Has the sections of these names stay apart.
const APART: &str =
    "-Wl,--unique=.text,--unique=.text.*,--unique=.rodata,--unique=.data,--unique=.bss";

/// What a shell does more with than to run one command.
const OF_SHELL: &[char] = &[';', '|', '&', '<', '>', '`', '$', '(', ')', '\n', '#', '\\'];

/// What was linked.
#[derive(Debug, Serialize)]
struct Again {
    images: Vec<PathBuf>,
}

/// Links what `folder` has, with `options` for the linker beside what it was linked with.
pub(super) fn run(folder: &Path, options: &[String], global: &Global) -> Result<ExitCode> {
    for option in options {
        ensure!(
            !(option.starts_with("-o") || option.starts_with("--o")),
            "{option}: what is linked again goes where make had it; copy it from there"
        );
    }
    let images = images(folder)?;
    let work = Work::new(folder)?;
    for image in &images {
        image.link(&work, options, global)?;
        for step in STEPS {
            image.step(step)?;
        }
    }
    let images = images.iter().map(Image::path);
    let again = Again {
        images: images.collect(),
    };
    output::print(global.json, &again, |again| {
        let lines = again.images.iter().map(|path| path.display().to_string());
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A folder in the build directory for what is made on the way, gone with this value, and when this process is told to end.
struct Work {
    folder: TempDir,
    _ending: Ending,
}

impl Work {
    fn new(build: &Path) -> Result<Self> {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("pool-").tempdir_in(build);
        let folder = folder.with_context(|| format!("making a folder in {}", build.display()))?;
        let path = folder.path().to_owned();
        let ending = Ending::after(move || {
            // Make never looks at it.
            let _ = fs::remove_dir_all(path);
        });
        let work = Self {
            folder,
            _ending: ending.context("waiting for signals")?,
        };
        let names = work.linkers();
        let own = std::env::current_exe().context("finding the program itself")?;
        let making = || format!("making the linker's names in {}", names.display());
        fs::create_dir(&names).with_context(making)?;
        for name in LINKERS {
            symlink(&own, names.join(name)).with_context(making)?;
        }
        Ok(work)
    }

    /// Where the linker is, by all names that compilers know.
    fn linkers(&self) -> PathBuf {
        self.folder.path().join(LINKER_NAMES)
    }

    /// The command `text`, of which further words are arguments.
    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{text} \"$@\""))
            .arg("sh")
            .env(FOLDER, self.folder.path());
        command
    }
}

/// An image of a build directory.
struct Image {
    folder: PathBuf,
    name: String,
}

fn images(folder: &Path) -> Result<Vec<Image>> {
    let context = || format!("looking for recorded links in {}", folder.display());
    let mut images = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        let image = name.to_str().and_then(|name| name.strip_suffix(LINK));
        images.extend(image.map(|name| Image {
            folder: folder.to_owned(),
            name: name.to_owned(),
        }));
    }
    ensure!(
        !images.is_empty(),
        "{} is no build directory of Unikraft that is finished: it has no recorded link (IMAGE{LINK}); run make first, and name the \
         folder that it has built in (build/)",
        folder.display()
    );
    images.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(images)
}

impl Image {
    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn command(&self, step: &str) -> PathBuf {
        self.folder.join(format!("{}{step}", self.name))
    }

    /// Runs the recorded command of the link, with `pool` for a linker and of that what is `asked` further.
    fn link(&self, work: &Work, asked: &[String], global: &Global) -> Result<()> {
        let file = self.command(LINK);
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("reading the recorded link {}", file.display()))?;
        ensure!(
            is_one_call(&text),
            "{} is not one call of a compiler, to which another linker could be named: run make with UK_LDFLAGS=-B and a folder \
             in which pool is called ld",
            file.display()
        );
        self.is_here(&text, &file)?;
        let mut words = self.with_libraries(&text, work)?;
        // Of several folders for programs the first counts, and there may be one for another linker.
        let options = words.iter().position(|word| word.starts_with('-'));
        let names = format!("\"-B${FOLDER}/{LINKER_NAMES}/\"");
        words.insert(options.unwrap_or(words.len()), names);
        let mut command = work.shell(&words.join(" "));
        // Any other linker takes this for a fault, and so is never taken for this one.
        for option in [ONLY].into_iter().chain(asked.iter().map(String::as_str)) {
            command.arg("-Xlinker").arg(option);
        }
        if global.server_is_said {
            command
                .env("POOL_SERVER", &global.server)
                .env_remove("POOL_REGISTRY");
        }
        if let Some(token) = &global.token {
            command.env("POOL_TOKEN", token);
        }
        if let Some(authorities) = &global.cacert {
            command.env("SSL_CERT_FILE", authorities);
        }
        succeeds(&mut command, &file)
    }

    /// Refuses a record that names another place for what it links: recorded paths are absolute, so a directory that was copied
    /// would have the one linked that it is a copy of.
    fn is_here(&self, text: &str, file: &Path) -> Result<()> {
        let mut words = text.split_whitespace().skip_while(|word| *word != "-o");
        let place = words.nth(1).map(|word| Path::new(word.trim_matches('"')));
        let own = self.folder.join(format!("{}{LINKED}", self.name));
        let parent = |path: &Path| path.parent().and_then(|parent| parent.canonicalize().ok());
        ensure!(
            place.is_some_and(|place| {
                place.file_name() == own.file_name() && parent(place) == parent(&own)
            }),
            "{} links {}, not {}: this directory was moved or copied; run make in it first",
            file.display(),
            place.map_or("nothing".into(), |place| place.display().to_string()),
            own.display()
        );
        Ok(())
    }

    /// The words of the link `text`, with each of its libraries that make has put together made again, in the folder for that.
    fn with_libraries(&self, text: &str, work: &Work) -> Result<Vec<String>> {
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let [partial, whole] = PARTIAL;
            let name = self.library(word).and_then(|name| name.strip_suffix(whole));
            let Some(name) = name else {
                words.push(word.to_owned());
                continue;
            };
            let own = [partial, whole].map(|step| self.folder.join(format!("{name}{step}")));
            let commands = own.each_ref().map(|file| {
                let mut command = file.clone().into_os_string();
                command.push(COMMAND);
                PathBuf::from(command)
            });
            if !commands.iter().all(|command| command.exists()) {
                words.push(word.to_owned());
                continue;
            }
            for (file, options) in commands.iter().zip([&[APART][..], &[]]) {
                let text = fs::read_to_string(file);
                let text = text.with_context(|| format!("reading {}", file.display()))?;
                ensure!(
                    is_one_call(&text),
                    "{} is not one command, of which the outcome could go elsewhere: run make with UK_LDFLAGS=-B and a folder in \
                     which pool is called ld",
                    file.display()
                );
                let moved = |word: &str| match self.library(word) {
                    Some(file) if own.iter().any(|own| own.ends_with(file)) => there(file),
                    _ => word.to_owned(),
                };
                let text: Vec<String> = text.split_whitespace().map(moved).collect();
                succeeds(work.shell(&text.join(" ")).args(options), file)?;
            }
            words.push(there(&format!("{name}{whole}")));
        }
        Ok(words)
    }

    /// The name of the file in the build directory that a word of a command is, if it begins as libraries do.
    fn library<'w>(&self, word: &'w str) -> Option<&'w str> {
        let (folder, name) = word.rsplit_once('/')?;
        let is_here = || {
            let (folder, own) = (Path::new(folder).canonicalize(), self.folder.canonicalize());
            folder.is_ok_and(|folder| own.is_ok_and(|own| own == folder))
        };
        (name.starts_with("lib") && is_here()).then_some(name)
    }

    /// Runs a command behind the link, if it is recorded.
    fn step(&self, step: &str) -> Result<()> {
        let file = self.command(step);
        if !file.exists() {
            return Ok(());
        }
        // A name that begins with a dash would be an option.
        let absolute = std::path::absolute(&file);
        let absolute = absolute.with_context(|| format!("finding {}", file.display()))?;
        succeeds(Command::new("sh").arg(absolute), &file)
    }
}

/// A recorded command to which something can be added, and whose words are told by what is between them.
fn is_one_call(text: &str) -> bool {
    let text = text.trim();
    let is_whole = |word: &str| {
        let quotes = |quote| word.matches(quote).count();
        quotes('"').is_multiple_of(2) && quotes('\'').is_multiple_of(2)
    };
    !text.is_empty() && !text.contains(OF_SHELL) && text.split_whitespace().all(is_whole)
}

/// A file in the folder for libraries that are made again, as a word of a command.
fn there(file: &str) -> String {
    format!("\"${FOLDER}/{file}\"")
}

fn succeeds(command: &mut Command, file: &Path) -> Result<()> {
    let status = command.status();
    let status = status.with_context(|| format!("running {}", file.display()))?;
    if !status.success() {
        bail!(
            "{} failed ({status}): see above; make builds the image anew",
            file.display()
        );
    }
    Ok(())
}
