//! `pool tag`: a further name for an image.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use pool_core::name::Referent;

use crate::{Global, WrongUse, output, server};

/// Give an image a further tag, or move the tag here from another image
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pool tag image/app:v7 image/app:stable")]
pub(crate) struct Tag {
    /// The image
    #[arg(value_parser = crate::referent::parse)]
    from: Referent,
    /// Its further tag
    #[arg(value_parser = crate::referent::parse)]
    to: Referent,
}

impl Tag {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let (Referent::Image(from), Referent::Image(to)) = (&self.from, &self.to) else {
            let what = "only images have tags: write image/NAME:TAG for both";
            bail!(WrongUse(what.into()));
        };
        let image = server::client(global)?.tag(from, to)?;
        output::print(global.json, &image, |image| {
            format!("image/{} is {}", image.reference(), self.from)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
