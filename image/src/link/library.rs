//! The libraries of a link: what they are called, and what identifies them.
//!
//! A library version's linked bytes are a function of its members and of its own addresses: whatever it
//! refers to outside of itself is reached through its private pages. Its *identity* is the digest of its
//! members' bytes and of its name. The addresses follow from the registry, which never changes an answer.
//!
//! So libraries that refer to each other in a circle (a C library and the compiler's support library do) need
//! nothing more, and a library is the same version beside any other, in whatever order.

use std::path::Path;

use pool_core::digest::ObjectId;
use pool_core::name::{LibraryRef, MAX_NAME, Name, NameError};

use super::args::LibraryAlias;
use super::error::LinkError;
use super::unit::Unit;

/// Part of every identity: a change of how libraries are laid out or relocated changes it, so
/// that bytes of two linkers are never taken for each other.
const LINKER_FORMAT: &str = "pool-link layout 8";

/// Digits of its contents' digest in the name of an archive that is not the only one with its file name.
const DIGITS: usize = 8;

/// Behind the name of a library whose pages hold what it refers to directly.
const SPACED: &str = "~spacer";

/// How a library is called, before its version is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    name: Name,
    /// None: the version follows from the identity.
    version: Option<Name>,
}

/// A library's name and identity.
#[derive(Clone, Debug)]
pub(super) struct Library {
    pub(super) reference: LibraryRef,
    pub(super) identity: ObjectId,
}

/// The name (and version) of the archive at `path`: given by an alias, or its file name.
pub(super) fn naming(path: &Path, aliases: &[LibraryAlias]) -> Naming {
    if let Some(alias) = alias(path, aliases) {
        return Naming {
            name: alias.library.name.clone(),
            version: Some(alias.library.version.clone()),
        };
    }
    let file = file_name(path);
    // An object that is a library without being named one is called as an archive would be.
    let stem = stem(file.strip_suffix(".o").unwrap_or(&file));
    Naming {
        name: name_of(stem),
        version: None,
    }
}

/// The name and version that were given to the archive at `path`, by its path, its file name, or `-lNAME`.
pub(super) fn alias<'r>(path: &Path, aliases: &'r [LibraryAlias]) -> Option<&'r LibraryAlias> {
    let text = path.display().to_string();
    let file = file_name(path);
    aliases.iter().find(|alias| {
        let wanted = alias.file.strip_prefix('-').unwrap_or(&alias.file);
        alias.file == text || alias.file == file || wanted.strip_prefix('l') == Some(stem(&file))
    })
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn stem(file: &str) -> &str {
    let stem = file.strip_suffix(".a").unwrap_or(file);
    stem.strip_prefix("lib").unwrap_or(stem)
}

/// The name of a library whose file is called so, as far as that can be one.
fn name_of(stem: &str) -> Name {
    let usable = |c: char| {
        if c.is_ascii_alphanumeric() || "._+~-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let text: String = stem.chars().map(usable).collect();
    let text = text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let length = text.len().min(MAX_NAME);
    Name::new(&text[..length]).unwrap_or_else(|_| Name::library())
}

/// Settles the identities of the library units, which are in command-line order.
/// `contents` are the digests of their members' bytes.
pub(super) fn settle(
    units: &[Unit<'_>],
    namings: &[Naming],
    contents: &[ObjectId],
) -> Result<Vec<Library>, LinkError> {
    refuse_two_versions(units, namings)?;
    let libraries = units.iter().zip(namings).zip(contents);
    libraries
        .map(|((unit, naming), contents)| {
            let mut hash = Identity::new();
            hash.text(LINKER_FORMAT);
            hash.text(naming.name.as_str());
            hash.text(naming.version.as_ref().map_or("", Name::as_str));
            hash.digest(contents);
            let identity = hash.finish();
            let reference =
                reference(naming, &identity).map_err(|source| LinkError::LibraryName {
                    path: unit.label.clone(),
                    source,
                })?;
            Ok(Library {
                reference,
                identity,
            })
        })
        .collect()
}

/// Digest of a library's members: names and time stamps do not matter, order and bytes do.
pub(super) fn contents_digest<'b>(members: impl Iterator<Item = &'b [u8]>) -> ObjectId {
    let mut hash = Identity::new();
    for member in members {
        hash.digest(&ObjectId::of(member));
    }
    hash.finish()
}

/// An image holds one version of what is called so by hand.
fn refuse_two_versions(units: &[Unit<'_>], namings: &[Naming]) -> Result<(), LinkError> {
    for (at, naming) in namings.iter().enumerate() {
        if let Some(other) = namings[..at].iter().position(|n| n.name == naming.name) {
            return Err(LinkError::TwoVersions {
                name: naming.name.to_string(),
                first: units[other].label.clone(),
                second: units[at].label.clone(),
            });
        }
    }
    Ok(())
}

/// Tells archives with one file name apart by their contents: all versions of one library may lie at one address.
pub(super) fn tell_apart(namings: &mut [Naming], contents: &[ObjectId]) {
    let names: Vec<Name> = namings.iter().map(|naming| naming.name.clone()).collect();
    for (naming, digest) in namings.iter_mut().zip(contents) {
        let alike = names.iter().filter(|name| **name == naming.name).count();
        if alike > 1 && naming.version.is_none() {
            let digits = &digest.to_string()[..DIGITS];
            naming.name = name_of(&format!("{:.100}-{digits}", naming.name.as_str()));
        }
    }
}

/// What other layouts than the pool's have at fixed addresses is called otherwise: a version of the pool has its pages alone.
pub(super) fn set_apart(namings: &mut [Naming]) {
    for naming in namings {
        let length = naming.name.as_str().len().min(MAX_NAME - SPACED.len());
        naming.name = name_of(&format!("{:.length$}{SPACED}", naming.name.as_str()));
    }
}

fn reference(naming: &Naming, identity: &ObjectId) -> Result<LibraryRef, NameError> {
    let version = match &naming.version {
        Some(version) => version.clone(),
        None => Name::new(&identity.to_string()[..12])?,
    };
    Ok(LibraryRef {
        name: naming.name.clone(),
        version,
    })
}

/// A digest over a sequence of texts and digests that cannot be confused with another sequence.
struct Identity(blake3::Hasher);

impl Identity {
    fn new() -> Self {
        Self(blake3::Hasher::new())
    }
    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_le_bytes());
    }
    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }
    fn digest(&mut self, digest: &ObjectId) {
        self.0.update(digest.as_bytes());
    }
    fn finish(&self) -> ObjectId {
        self.0.finalize().into()
    }
}
