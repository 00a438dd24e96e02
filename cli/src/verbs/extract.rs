//! `pool extract`: the parts of an executable as files of their own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use pool_core::digest::ObjectId;
use serde::Serialize;

use crate::output::Column;
use crate::{Global, file, output, server};

/// Write the libraries, the code and the data of an executable to files
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pool extract app.elf -d parts/")]
pub(crate) struct Extract {
    /// A static executable, or a referent of an image
    elf: PathBuf,
    /// Folder to write to, made if absent
    #[arg(short, long, value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Serialize)]
struct Extracted {
    name: String,
    object: ObjectId,
    bytes: u64,
}

impl Extract {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let bytes = file::read_or_fetch(&self.elf, || server::client(global))?;
        let described = pool_image::describe::describe(&bytes)
            .with_context(|| format!("describing {}", self.elf.display()))?;
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("making {}", self.directory.display()))?;
        let mut extracted = Vec::new();
        for part in pool_image::extract::extract(&described) {
            let path = self.directory.join(&part.name);
            file::write(&path, &part.content().bytes(), file::DATA)?;
            extracted.push(Extracted {
                bytes: part.content().len(),
                object: part.object.id,
                name: part.name,
            });
        }
        output::print(global.json, &extracted, |extracted| {
            let rows: Vec<_> = extracted
                .iter()
                .map(|part| {
                    vec![
                        part.name.clone(),
                        output::bytes(part.bytes),
                        output::short(&part.object),
                    ]
                })
                .collect();
            let columns = [
                Column::Text("FILE"),
                Column::Number("SIZE"),
                Column::Text("OBJECT"),
            ];
            output::table(&columns, &rows)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
