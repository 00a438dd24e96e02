//! What a person points at: a name, a digest, or a path under the mount point.

use std::path::Path;

use pool_core::name::{NameError, Referent};

/// Reads a referent. Of a path, the part below the mount point counts; where that cannot be seen
/// from here, the path's own words tell. What is no name may be a path from here.
pub(crate) fn parse(text: &str) -> Result<Referent, NameError> {
    let path = |text: &str| below_mount(text).and_then(|below| Referent::below_mount(&below));
    if Path::new(text).is_absolute() {
        return path(text).map_or_else(|| text.parse(), Ok);
    }
    text.parse().or_else(|error| {
        let from_here = std::path::absolute(text).ok();
        let from_here = from_here.as_deref().and_then(Path::to_str);
        from_here.and_then(path).ok_or(error)
    })
}

/// The part of a path below the mount point of a pool, which has a `.pool/version`.
fn below_mount(text: &str) -> Option<String> {
    let path = Path::new(text);
    let mount = path
        .ancestors()
        .find(|folder| folder.join(".pool/version").is_file())?;
    path.strip_prefix(mount).ok()?.to_str().map(str::to_owned)
}
