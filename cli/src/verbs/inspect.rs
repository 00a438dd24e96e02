//! `pool inspect`: what there is to know about an executable.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use pool_image::describe::{DescribedImage, describe};
use pool_image::inspect::{against, picture};

use crate::file::Bytes;
use crate::{Global, file, output, server};

/// Report an executable's address map, pages, libraries and windows
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool inspect app.elf\n  pool inspect image/app:v1 --json\n  \
                        pool inspect app.elf --against image/app:v1 image/web:v7 --picture shared.svg"
)]
pub(crate) struct Inspect {
    /// A static executable, or a referent of an image
    elf: PathBuf,
    /// Others, to report what they share with it and what keeps them from sharing more
    #[arg(long, value_name = "ELF", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Draw that as SVG: an image a column, a page a cell, coloured by how many images have it
    #[arg(long, value_name = "FILE", requires = "against")]
    picture: Option<PathBuf>,
}

impl Inspect {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let files = std::iter::once(&self.elf).chain(&self.against);
        let read = |path: &PathBuf| {
            let bytes = file::read_or_fetch(path, || server::client(global))?;
            Ok((path.display().to_string(), bytes))
        };
        let files: Vec<(String, Bytes)> = files.map(read).collect::<Result<_>>()?;
        let mut images: Vec<(String, DescribedImage<'_>)> = Vec::with_capacity(files.len());
        for (name, bytes) in &files {
            let described = describe(bytes).with_context(|| format!("describing {name}"))?;
            images.push((name.clone(), described));
        }
        if let [(_, image)] = images.as_slice() {
            let report = pool_image::inspect::inspect(image);
            output::print(global.json, &report, ToString::to_string)?;
            return Ok(ExitCode::SUCCESS);
        }
        let comparison = against::compare(&images);
        if let Some(path) = &self.picture {
            file::write(path, picture::draw(&comparison).as_bytes(), file::DATA)?;
        }
        output::print(global.json, &comparison, ToString::to_string)?;
        Ok(ExitCode::SUCCESS)
    }
}
