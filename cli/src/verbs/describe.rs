//! `pool describe`: what lies where in an executable's memory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{Global, file, server};

/// Write an executable's description: address map, protections, digests, entry point
///
/// The description is JSON, whatever --json says.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pool describe app.elf -o app.desc")]
pub(crate) struct Describe {
    /// A static executable, or a referent of an image
    elf: PathBuf,
    /// Where to write the description
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

impl Describe {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let bytes = file::read_or_fetch(&self.elf, || server::client(global))?;
        let described = pool_image::describe::describe(&bytes)
            .with_context(|| format!("describing {}", self.elf.display()))?;
        let json = described.description.to_json();
        file::write(&self.output, &json, file::DATA)?;
        Ok(ExitCode::SUCCESS)
    }
}
