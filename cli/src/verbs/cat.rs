//! `pool cat`: the bytes of a thing.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use pool_core::name::Referent;

use crate::{Global, server};

/// Write a library's content, an image's file, an object or a page to standard output
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool cat image/app:v1 > app.elf\n  pool cat /pool/libs/zlib/1.3"
)]
pub(crate) struct Cat {
    /// What to write
    #[arg(value_parser = crate::referent::parse)]
    referent: Referent,
}

impl Cat {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let mut content = server::client(global)?.content(&self.referent)?;
        let mut stdout = io::stdout().lock();
        io::copy(&mut content, &mut stdout)
            .and_then(|_| stdout.flush())
            .with_context(|| format!("copying {}", self.referent))?;
        Ok(ExitCode::SUCCESS)
    }
}
