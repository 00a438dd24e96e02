//! How fast a store takes content in: large contents against what their bytes cost anyway, and small commits by
//! several writers at once.

mod content;
mod small;

use std::path::Path;

use anyhow::{Context, Result};
use pool_core::name::{LibraryRef, Name};
use pool_store::placement::Placement;
use pool_store::upload::{Content, Target};
use pool_store::{Store, StoreOptions};
use serde_json::json;

use crate::write_result;

/// Measures, and writes `ingest.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let directory = tempfile::tempdir_in(out).context("making a directory for stores")?;
    let content = content::measure(directory.path())?;
    content.print();
    let small = small::measure(&directory.path().join("small"))?;
    small.print();
    write_result(
        out,
        "ingest",
        &json!({ "content": content, "small": small }),
    )
}

/// A new store in `directory`.
fn new_store(directory: &Path) -> Result<Store> {
    let options = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    Ok(Store::open(directory, options)?)
}

/// Pushes `bytes` as a library version, hashing included.
fn push(store: &Store, name: &str, version: u32, bytes: &[u8], placement: Placement) -> Result<()> {
    let library = LibraryRef {
        name: Name::new(name)?,
        version: Name::new(version.to_string())?,
    };
    let content = Content::of(bytes, placement);
    let object = content.id();
    store.ingest(Target::Library { library, object }, &[content])?;
    Ok(())
}
