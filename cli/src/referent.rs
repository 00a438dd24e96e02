//! What a person points at: a name, a digest, or a path under the mount point.

use std::path::{Path, PathBuf};

use pool_core::name::{Name, NameError, Referent};

/// Reads a referent. Of a path, the part below the mount point counts; where that cannot be seen
/// from here, the path's own words tell. What is no name may be a path from here.
pub(crate) fn parse(text: &str) -> Result<Referent, NameError> {
    let path = |path: &Path| below_mount(path).and_then(|below| Referent::below_mount(&below));
    if Path::new(text).is_absolute() {
        return path(Path::new(text)).map_or_else(|| text.parse(), Ok);
    }
    text.parse()
        .or_else(|error| absolute(text).as_deref().and_then(path).ok_or(error))
}

/// A folder under the mount point whose things have names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Folder {
    /// The mount point.
    Root,
    /// All images, or those of one name.
    Images(Option<Name>),
    /// All library versions, or those of one name.
    Libraries(Option<Name>),
}

/// Reads a path of a folder as [`parse`] reads that of a thing.
pub(crate) fn folder(text: &str) -> Option<Folder> {
    if let Some(below) = absolute(text).as_deref().and_then(below_mount) {
        let parts: Vec<_> = below.split('/').filter(|part| !part.is_empty()).collect();
        return if parts.is_empty() {
            Some(Folder::Root)
        } else {
            Folder::of(&parts)
        };
    }
    if !Path::new(text).is_absolute() {
        return None;
    }
    let parts: Vec<_> = text.split('/').filter(|part| !part.is_empty()).collect();
    (0..parts.len()).find_map(|at| Folder::of(&parts[at..]))
}

impl Folder {
    fn of(parts: &[&str]) -> Option<Self> {
        let name = match parts {
            [_] => None,
            [_, name] => Some(Name::new(*name).ok()?),
            _ => return None,
        };
        match *parts.first()? {
            "images" => Some(Self::Images(name)),
            "libs" => Some(Self::Libraries(name)),
            _ => None,
        }
    }
}

fn absolute(text: &str) -> Option<PathBuf> {
    std::path::absolute(text).ok()
}

/// The part of a path below the mount point of a pool, which has a `.pool/version`.
fn below_mount(path: &Path) -> Option<String> {
    let mount = path
        .ancestors()
        .find(|folder| folder.join(".pool/version").is_file())?;
    path.strip_prefix(mount).ok()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_from_things() {
        let name = |name: &str| Some(Name::new(name).unwrap());
        for (path, expected) in [
            ("/pool/libs", Some(Folder::Libraries(None))),
            ("/pool/libs/zlib/", Some(Folder::Libraries(name("zlib")))),
            ("/pool/images/libs", Some(Folder::Images(name("libs")))),
            ("/mnt/x/images", Some(Folder::Images(None))),
            ("/pool/libs/zlib/1.3/x", None),
            ("/pool", None),
            ("/pool/libs/..", None),
            ("libs", None),
        ] {
            assert_eq!(folder(path), expected, "{path}");
        }
    }
}
