//! `pool rm`: remove a tag or a library version.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pool_core::name::Referent;
use serde::Serialize;

use crate::{Global, WrongUse, output, server};

/// Remove tags and unused library versions; disk space comes back with a collection
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pool rm image/app:v1 lib/zlib@1.2")]
pub(crate) struct Rm {
    /// What to remove
    #[arg(required = true, value_parser = crate::referent::parse)]
    referents: Vec<Referent>,
}

#[derive(Serialize)]
struct Removed {
    removed: Vec<String>,
}

impl Rm {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        for referent in &self.referents {
            if !matches!(referent, Referent::Image(_) | Referent::Library(_)) {
                let what = format!(
                    "{referent} cannot be removed: only images and library versions can, the rest \
                     goes by collection (pool gc)"
                );
                bail!(WrongUse(what));
            }
        }
        let client = server::client(global)?;
        let mut removed = Vec::new();
        for referent in &self.referents {
            let deleted = match referent {
                Referent::Image(image) => client.delete_image(image),
                Referent::Library(library) => client.delete_library(library),
                Referent::Digest(_) | Referent::Segment(_) => continue,
            };
            match deleted {
                Ok(()) => removed.push(referent.to_string()),
                Err(error) if removed.is_empty() => bail!(error),
                // What is gone is told, whatever became of the rest.
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("removed {}, and then", removed.join(" ")));
                }
            }
        }
        output::print(global.json, &Removed { removed }, |answer| {
            let lines = answer
                .removed
                .iter()
                .map(|name| format!("removed {name}\n"));
            lines.collect()
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
