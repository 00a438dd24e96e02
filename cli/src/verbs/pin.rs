//! `pool pin` and `pool unpin`: keep a library version whether used or not.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use pool_core::name::Referent;

use crate::{Global, WrongUse, output, server};

/// Keep a library version whether used or not
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pool pin lib/zlib@1.3")]
pub(crate) struct Pin {
    /// The library version
    #[arg(value_parser = crate::referent::parse)]
    library: Referent,
}

/// Let a library version go once nothing uses it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pool unpin lib/zlib@1.3")]
pub(crate) struct Unpin {
    /// The library version
    #[arg(value_parser = crate::referent::parse)]
    library: Referent,
}

impl Pin {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        set(global, &self.library, true)
    }
}

impl Unpin {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        set(global, &self.library, false)
    }
}

fn set(global: &Global, referent: &Referent, pinned: bool) -> Result<ExitCode> {
    let Referent::Library(library) = referent else {
        let what = "only library versions can be pinned (an image stays as long as it has a tag): \
                    write lib/NAME@VERSION";
        bail!(WrongUse(what.into()));
    };
    let library = server::client(global)?.pin(library, pinned)?;
    output::print(global.json, &library, |library| {
        let state = if library.pinned {
            "pinned"
        } else {
            "not pinned"
        };
        format!("lib/{} is {state}", library.reference())
    })?;
    Ok(ExitCode::SUCCESS)
}
