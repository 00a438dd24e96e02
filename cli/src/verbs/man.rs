//! `pool man`: manual pages, for packagers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};

use crate::Cli;

/// Write a manual page for each verb
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder to write to, made if absent
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let context = || format!("writing to {}", self.directory.display());
        std::fs::create_dir_all(&self.directory).with_context(context)?;
        clap_mangen::generate_to(Cli::command(), &self.directory).with_context(context)?;
        Ok(ExitCode::SUCCESS)
    }
}
