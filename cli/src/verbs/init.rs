//! `pool init`: a new store.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_store::{Store, StoreOptions};
use serde::Serialize;

use crate::{Global, output};

/// Make an empty store
///
/// In a directory that is absent or empty; any other is refused. poolsvc makes a store by itself
/// where its directory is absent, but not in an empty one: that may be a mount point whose
/// filesystem is missing.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool init --store /var/lib/pool\n  pool init --store /mnt/pool --segment-bytes 1073741824"
)]
pub(crate) struct Init {
    /// Make it in this directory
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Bytes of a segment, a multiple of 2 MiB up to 16 GiB
    #[arg(long, value_name = "BYTES", default_value_t = StoreOptions::default().segment_bytes)]
    segment_bytes: u64,
}

/// The new store.
#[derive(Debug, Serialize)]
struct Made {
    /// Its directory; what is no UTF-8 in it is replaced, as JSON has no bytes.
    directory: String,
    /// Its identity, in hexadecimal.
    store: String,
}

impl Init {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let options = StoreOptions {
            segment_bytes: self.segment_bytes,
            ..StoreOptions::default()
        };
        let superblock = Store::create(&self.store, options)?;
        let made = Made {
            directory: self.store.display().to_string(),
            store: format!("{:032x}", u128::from_be_bytes(superblock.identity)),
        };
        output::print(global.json, &made, |made| {
            format!("an empty store is in {}", made.directory)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
