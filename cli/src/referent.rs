//! What a person points at: a name, a digest, or a path under the mount point.

use std::path::Path;

use pool_core::name::{NameError, Referent};

/// Reads a referent. Of a path, the part below the mount point counts; where that cannot be seen
/// from here, the path's own words tell.
pub(crate) fn parse(text: &str) -> Result<Referent, NameError> {
    match below_mount(text) {
        Some(below) => Referent::below_mount(&below).map_or_else(|| text.parse(), Ok),
        None => text.parse(),
    }
}

/// The part of a path below the mount point of a pool, which has a `.pool/version`.
fn below_mount(text: &str) -> Option<String> {
    let path = Path::new(text).is_absolute().then(|| Path::new(text))?;
    let mount = path
        .ancestors()
        .find(|folder| folder.join(".pool/version").is_file())?;
    path.strip_prefix(mount).ok()?.to_str().map(str::to_owned)
}
