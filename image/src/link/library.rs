//! The libraries of a link: what they are called, what they depend on, and what identifies them.
//!
//! A library version's linked bytes are a function of its members and of the addresses of what
//! it refers to. Its *identity* is the digest of all of that which is not an address: the
//! members' bytes, the names, versions and identities of the libraries it depends on, and which
//! of them supplies which symbol. The addresses follow from the registry, which never changes an
//! answer.
//!
//! A depends on B when B is the first archive on the command line that defines a symbol which A
//! needs (a strong reference that A does not define). Weak references create no dependency:
//! the image settles them.
//!
//! Libraries that depend on each other in a circle (a C library and the compiler's support
//! library do) stay libraries of their own. Sizes do not depend on addresses, so all of a circle
//! is laid out, then reserved, then relocated; the identity of each covers the members of all.

use std::collections::BTreeMap;
use std::path::Path;

use pool_core::digest::ObjectId;
use pool_core::name::{LibraryRef, MAX_NAME, Name, NameError};

use super::args::LibraryAlias;
use super::error::LinkError;
use super::object::{Binding, Place};
use super::unit::Unit;

/// Part of every identity: a change of how libraries are laid out or relocated changes it, so
/// that bytes of two linkers are never taken for each other.
const LINKER_FORMAT: &str = "pool-link layout 2";

/// Digits of its contents' digest in the name of an archive that is not the only one with its file name.
const DIGITS: usize = 8;

/// How a library is called, before its version is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    name: Name,
    /// None: the version follows from the identity.
    version: Option<Name>,
}

/// A library's name, dependencies and identity.
#[derive(Clone, Debug)]
pub(super) struct Library {
    pub(super) reference: LibraryRef,
    pub(super) identity: ObjectId,
    /// Positions (among the libraries) of those it refers to.
    pub(super) dependencies: Vec<usize>,
    /// All that can be reached through dependencies, in the order of their names.
    pub(super) scope: Vec<usize>,
    /// Which library supplies a symbol that this one needs.
    pub(super) suppliers: BTreeMap<String, usize>,
}

/// The name (and version) of the archive at `path`: given by an alias, or its file name.
pub(super) fn naming(path: &Path, aliases: &[LibraryAlias]) -> Naming {
    let text = path.display().to_string();
    let file = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = file.strip_suffix(".a").unwrap_or(&file);
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    let matches = |alias: &&LibraryAlias| {
        let wanted = alias.file.strip_prefix('-').unwrap_or(&alias.file);
        alias.file == text || alias.file == file || wanted.strip_prefix('l') == Some(stem)
    };
    if let Some(alias) = aliases.iter().find(matches) {
        return Naming {
            name: alias.library.name.clone(),
            version: Some(alias.library.version.clone()),
        };
    }
    Naming {
        name: name_of(stem),
        version: None,
    }
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

/// Settles dependencies and identities of the library units, which are in command-line order.
/// `contents` are the digests of their members' bytes.
pub(super) fn settle(
    units: &[&Unit<'_>],
    namings: &[Naming],
    contents: &[ObjectId],
) -> Result<Vec<Library>, LinkError> {
    refuse_two_versions(units, namings)?;
    let suppliers: Vec<BTreeMap<String, usize>> =
        (0..units.len()).map(|own| suppliers(units, own)).collect();
    let graph: Vec<Vec<usize>> = suppliers.iter().map(dependencies).collect();
    let reach: Vec<Vec<bool>> = (0..units.len())
        .map(|from| reachable(&graph, from))
        .collect();

    // Whatever a library depends on reaches fewer libraries than it does itself, unless both are
    // in one circle and reach the same.
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|l| (reach[*l].iter().filter(|r| **r).count(), *l));
    let mut settled: Vec<Option<(LibraryRef, ObjectId)>> = vec![None; units.len()];
    for own in order {
        let in_circle = |other: usize| reach[own][other] && reach[other][own];
        let mut hash = Identity::new();
        hash.text(LINKER_FORMAT);
        hash.digest(&contents[own]);
        let mut circle: Vec<usize> = (0..units.len()).filter(|l| in_circle(*l)).collect();
        circle.sort_by_key(|l| &namings[*l].name);
        hash.count(circle.len());
        for l in circle {
            hash.library(&namings[l], &contents[l], &suppliers[l], namings);
            let outside = graph[l].iter().filter(|other| !in_circle(**other));
            let mut outside: Vec<_> = outside.filter_map(|o| settled[*o].as_ref()).collect();
            outside.sort_unstable();
            hash.count(outside.len());
            for (reference, identity) in outside {
                hash.text(&reference.to_string());
                hash.digest(identity);
            }
        }
        let identity = hash.finish();
        let reference =
            reference(&namings[own], &identity).map_err(|source| LinkError::LibraryName {
                path: units[own].label.clone(),
                source,
            })?;
        settled[own] = Some((reference, identity));
    }
    let settled: Vec<(LibraryRef, ObjectId)> = settled.into_iter().flatten().collect();
    Ok((0..units.len())
        .map(|own| {
            let mut scope: Vec<usize> = (0..units.len())
                .filter(|l| *l != own && reach[own][*l])
                .collect();
            scope.sort_by_key(|l| &settled[*l].0);
            Library {
                reference: settled[own].0.clone(),
                identity: settled[own].1,
                dependencies: graph[own].clone(),
                scope,
                suppliers: suppliers[own].clone(),
            }
        })
        .collect())
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
fn refuse_two_versions(units: &[&Unit<'_>], namings: &[Naming]) -> Result<(), LinkError> {
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

/// The first other library that defines each symbol which `own` needs.
fn suppliers(units: &[&Unit<'_>], own: usize) -> BTreeMap<String, usize> {
    let mut suppliers = BTreeMap::new();
    for (_, _, symbol) in units[own].symbols() {
        let needed = symbol.place == Place::Undefined
            && symbol.binding == Binding::Global
            && units[own].definition(symbol.name).is_none();
        if !needed || suppliers.contains_key(symbol.name) {
            continue;
        }
        let supplier =
            (0..units.len()).find(|l| *l != own && units[*l].definition(symbol.name).is_some());
        if let Some(supplier) = supplier {
            suppliers.insert(symbol.name.to_owned(), supplier);
        }
    }
    suppliers
}

fn dependencies(suppliers: &BTreeMap<String, usize>) -> Vec<usize> {
    let mut dependencies: Vec<usize> = suppliers.values().copied().collect();
    dependencies.sort_unstable();
    dependencies.dedup();
    dependencies
}

/// Which libraries can be reached from `from`; itself is one of them.
fn reachable(graph: &[Vec<usize>], from: usize) -> Vec<bool> {
    let mut seen = vec![false; graph.len()];
    seen[from] = true;
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        for next in &graph[at] {
            if !std::mem::replace(&mut seen[*next], true) {
                open.push(*next);
            }
        }
    }
    seen
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
    /// A library: its name, its members, and who supplies what it refers to.
    fn library(
        &mut self,
        naming: &Naming,
        contents: &ObjectId,
        suppliers: &BTreeMap<String, usize>,
        namings: &[Naming],
    ) {
        self.text(naming.name.as_str());
        self.text(naming.version.as_ref().map_or("", Name::as_str));
        self.digest(contents);
        self.count(suppliers.len());
        for (symbol, supplier) in suppliers {
            self.text(symbol);
            self.text(namings[*supplier].name.as_str());
        }
    }
    fn finish(&self) -> ObjectId {
        self.0.finalize().into()
    }
}
