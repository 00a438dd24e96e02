//! `pool inspect`: what there is to know about an executable.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{Global, file, output, server};

/// Report an executable's address map, pages, libraries and windows
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pool inspect app.elf\n  pool inspect image/app:v1 --json")]
pub(crate) struct Inspect {
    /// A static executable, or a referent of an image
    elf: PathBuf,
}

impl Inspect {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let bytes = file::read_or_fetch(&self.elf, || server::client(global))?;
        let described = pool_image::describe::describe(&bytes)
            .with_context(|| format!("describing {}", self.elf.display()))?;
        let report = pool_image::inspect::inspect(&described);
        output::print(global.json, &report, ToString::to_string)?;
        Ok(ExitCode::SUCCESS)
    }
}
