//! A finished build directory of Unikraft, linked once more.
//!
//! Unikraft's make keeps each command that it runs beside what the command makes: `IMAGE.dbg.cmd` links, `IMAGE.cmd`
//! strips what was linked, `IMAGE.bootinfo.cmd` tells the image where its own parts are. So the link is done again with `pool`
//! for a linker, and what comes behind it as it was. Nothing is run but what make has run there before.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::ONLY;
use crate::{Global, LINKERS, output};

/// The option of `pool link` that names one.
pub(super) const OPTION: &str = "--unikraft";

/// Behind an image's name that of the command that links it.
const LINK: &str = ".dbg.cmd";
/// Those of the commands that come behind it, in order.
const STEPS: [&str; 4] = [".cmd", ".bootinfo.cmd", ".sym.cmd", ".gz.cmd"];

/// What a shell does more with than to run one command.
const OF_SHELL: &[char] = &[';', '|', '&', '<', '>', '`', '$', '(', ')', '\n'];

/// What was linked.
#[derive(Debug, Serialize)]
struct Again {
    images: Vec<PathBuf>,
}

/// Links what `folder` has, with `options` for the linker beside what it was linked with.
pub(super) fn run(folder: &Path, options: &[String], global: &Global) -> Result<ExitCode> {
    let images = images(folder)?;
    let names = tempfile::tempdir().context("making a folder for the linker's names")?;
    let linker = std::env::current_exe().context("finding the program itself")?;
    for name in LINKERS {
        let name = names.path().join(name);
        symlink(&linker, &name).with_context(|| format!("making {}", name.display()))?;
    }
    for image in &images {
        image.link(names.path(), options, global)?;
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

    /// Runs the recorded command of the link, with a linker of the folder `linker` and further `options` for it.
    fn link(&self, linker: &Path, options: &[String], global: &Global) -> Result<()> {
        let file = self.command(LINK);
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("reading the recorded link {}", file.display()))?;
        let text = text.trim();
        ensure!(
            !text.is_empty() && !text.contains(OF_SHELL),
            "{} is not one call of a compiler, to which another linker could be named: run make with UK_LDFLAGS=-B and a folder \
             in which pool is called ld",
            file.display()
        );
        let mut folder = OsString::from("-B");
        folder.push(linker);
        folder.push("/");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{text} \"$@\""))
            .arg("sh")
            .arg(folder);
        // Any other linker takes this for a fault, and so is never taken for this one.
        for option in [ONLY].into_iter().chain(options.iter().map(String::as_str)) {
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

    /// Runs a command behind the link, if it is recorded.
    fn step(&self, step: &str) -> Result<()> {
        let file = self.command(step);
        if !file.exists() {
            return Ok(());
        }
        succeeds(Command::new("sh").arg(&file), &file)
    }
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
