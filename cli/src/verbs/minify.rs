//! `pool minify`: an executable without the pages that the pool holds, and back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pool_core::digest::ObjectId;
use pool_image::describe::describe;
use pool_image::minify::{Minified, minify};
use serde::Serialize;

use crate::{Global, file, output, server};

/// Take the pages that the pool holds out of an executable, or put them back
///
/// With --restore the pages come from the pool, or from a folder that `pool extract` filled.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pool minify app.elf -o app.min\n  \
                  pool minify --restore app.min -o app.elf\n  \
                  pool minify --restore app.min --parts parts/ -o app.elf")]
pub(crate) struct Minify {
    /// A static executable or a referent of an image; a minified image with --restore
    elf: PathBuf,
    /// Where to write the result
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Put the original together again
    #[arg(long)]
    restore: bool,
    /// Take pages from the files of this folder instead of the pool
    #[arg(long, value_name = "DIR", requires = "restore")]
    parts: Option<PathBuf>,
}

#[derive(Serialize)]
struct Sizes {
    original_bytes: u64,
    minified_bytes: u64,
}

impl Minify {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let bytes = file::read_or_fetch(&self.elf, || server::client(global))?;
        let (sizes, mode, result) = if self.restore {
            let restored = self.restore(global, &bytes)?;
            let sizes = Sizes {
                original_bytes: restored.len() as u64,
                minified_bytes: bytes.len() as u64,
            };
            (sizes, file::EXECUTABLE, restored)
        } else {
            let described =
                describe(&bytes).with_context(|| format!("describing {}", self.elf.display()))?;
            let minified = minify(&described);
            let sizes = Sizes {
                original_bytes: bytes.len() as u64,
                minified_bytes: minified.len() as u64,
            };
            (sizes, file::DATA, minified)
        };
        file::write(&self.output, &result, mode)?;
        // What is written to standard output is the result itself.
        if self.output != Path::new("-") {
            output::print(global.json, &sizes, |sizes| {
                output::pairs(&[
                    ("original", output::bytes(sizes.original_bytes)),
                    ("minified", output::bytes(sizes.minified_bytes)),
                ])
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn restore(&self, global: &Global, bytes: &[u8]) -> Result<Vec<u8>> {
        let minified =
            Minified::read(bytes).with_context(|| format!("reading {}", self.elf.display()))?;
        let mut failure = None;
        let parts = match &self.parts {
            Some(folder) => Some(Parts::read(folder)?),
            None => None,
        };
        let client = match parts {
            None => Some(server::client(global)?),
            Some(_) => None,
        };
        let fetch = |id: &ObjectId| match (&parts, &client) {
            (Some(parts), _) => parts.find(*id),
            (None, Some(client)) => client.object(*id).unwrap_or_else(|error| {
                failure = Some(error);
                None
            }),
            (None, None) => None,
        };
        let restored = minified.restore(fetch);
        if let Some(error) = failure {
            bail!(error);
        }
        restored.with_context(|| format!("restoring {}", self.elf.display()))
    }
}

/// Files of a folder, by digest.
struct Parts(Vec<(ObjectId, Vec<u8>)>);

impl Parts {
    fn read(folder: &Path) -> Result<Self> {
        let context = || format!("reading {}", folder.display());
        let mut parts = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.is_file() {
                let bytes = std::fs::read(&path).with_context(context)?;
                parts.push((ObjectId::of(&bytes), bytes));
            }
        }
        Ok(Self(parts))
    }

    fn find(&self, id: ObjectId) -> Option<Vec<u8>> {
        let part = self.0.iter().find(|(known, _)| *known == id)?;
        Some(part.1.clone())
    }
}
