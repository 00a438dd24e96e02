//! Where a link gets addresses from.
//!
//! The linker asks once for all library versions of a link and keeps no record of its own: whoever
//! implements [`Registry`] persists reservations before it answers with them, since from then on
//! bytes exist that depend on them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use pool_core::name::LibraryRef;
use pool_core::registry::{
    AddressBook, Known, Places, Reservation, ReservationRequest, ReserveError,
};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Why a registry gave no addresses.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Refused.
    #[error(transparent)]
    Refused(#[from] ReserveError),
    /// The registry's file cannot be used.
    #[error("cannot {action} the address registry {path}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// From the system.
        source: std::io::Error,
    },
    /// The registry's file is no registry.
    #[error(
        "{path} is not an address registry: {source}; restore it from a backup, since libraries \
         linked from it depend on what it held"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        source: serde_json::Error,
    },
    /// Another kind of registry (over a network, for one) failed.
    #[error("{0}")]
    Other(String),
}

/// Gives each library version its addresses, the same ones for ever.
pub trait Registry {
    /// Reserves addresses, or repeats the answers given before for the same requests, in their order. When one
    /// is refused nothing is reserved.
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError>;

    /// What is on record of where things are in library versions and in earlier ones of theirs, in order. Nothing, where
    /// there is no record: each version is then laid out for itself.
    fn known(&mut self, libraries: &[LibraryRef]) -> Result<Vec<Known>, RegistryError> {
        Ok(vec![Known::Nothing; libraries.len()])
    }
}

/// A book in memory, for trying a layout out: nothing outlives it.
impl Registry for AddressBook {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        Ok(self.reserve_all(requests)?)
    }

    fn known(&mut self, libraries: &[LibraryRef]) -> Result<Vec<Known>, RegistryError> {
        Ok(known(self, libraries))
    }
}

fn known(book: &AddressBook, libraries: &[LibraryRef]) -> Vec<Known> {
    let places =
        |version: &_| Ok::<Option<Places>, std::convert::Infallible>(book.places(version).cloned());
    let all = libraries.iter();
    all.map(|library| match book.known(library, places) {
        Ok(known) => known,
        Err(never) => match never {},
    })
    .collect()
}

/// A registry in a file, for builds without a pool service. Builds on one machine may share it:
/// each link's reservations hold an exclusive lock (`flock`) on `FILE.lock`, and the book is replaced
/// whole, so a reader sees the old one or the new one.
#[derive(Clone, Debug)]
pub struct FileRegistry {
    path: PathBuf,
}

impl FileRegistry {
    /// The registry in `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> RegistryError {
        let path = self.path.clone();
        move |source| RegistryError::File {
            action,
            path,
            source,
        }
    }

    /// The lock is on a file of its own: the book's file is replaced by each change.
    fn lock(&self) -> Result<File, RegistryError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(sibling(&self.path, ".lock"))
            .map_err(self.failed("lock"))?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(|e| self.failed("lock")(e.into()))?;
        Ok(file)
    }

    fn read(&self) -> Result<AddressBook, RegistryError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(AddressBook::default()),
            Err(e) => return Err(self.failed("read")(e)),
        };
        serde_json::from_slice(&text).map_err(|source| RegistryError::Damaged {
            path: self.path.clone(),
            source,
        })
    }

    fn write(&self, book: &AddressBook) -> Result<(), RegistryError> {
        let replace = || -> std::io::Result<()> {
            let new = sibling(&self.path, ".new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(book)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            File::open(folder_of(&self.path))?.sync_all()
        };
        replace().map_err(self.failed("write"))
    }
}

impl Registry for FileRegistry {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        let _held = self.lock()?;
        let mut book = self.read()?;
        let before = book.reservations().len();
        let reserved = book.reserve_all(requests)?;
        if book.reservations().len() != before {
            self.write(&book)?;
        }
        Ok(reserved)
    }

    fn known(&mut self, libraries: &[LibraryRef]) -> Result<Vec<Known>, RegistryError> {
        Ok(known(&self.read()?, libraries))
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::digest::ObjectId;
    use pool_core::page::PageCount;

    fn request(library: &str, contents: &str) -> ReservationRequest {
        ReservationRequest::new(
            library.parse().unwrap(),
            ObjectId::of(contents.as_bytes()),
            PageCount(3),
            PageCount(1),
        )
    }

    fn reserve(
        registry: &mut FileRegistry,
        library: &str,
        contents: &str,
    ) -> Result<Reservation, RegistryError> {
        let mut reserved = registry.reserve(&[request(library, contents)])?;
        Ok(reserved.remove(0))
    }

    fn registry() -> (tempfile::TempDir, FileRegistry) {
        let folder = tempfile::tempdir().unwrap();
        let registry = FileRegistry::new(folder.path().join("addresses.json"));
        (folder, registry)
    }

    #[test]
    fn reservations_outlive_the_process() {
        let (_folder, mut registry) = registry();
        let first = reserve(&mut registry, "a@1", "x").unwrap();
        let other = reserve(&mut registry, "b@1", "y").unwrap();
        assert_ne!(first.shared.start, other.shared.start);
        let mut again = FileRegistry::new(&registry.path);
        assert_eq!(reserve(&mut again, "a@1", "x").unwrap(), first);
        assert!(matches!(
            reserve(&mut again, "a@1", "z"),
            Err(RegistryError::Refused(ReserveError::Conflict { .. }))
        ));
    }

    #[test]
    fn builds_at_the_same_time_get_disjoint_addresses() {
        let (_folder, registry) = registry();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let mut registry = registry.clone();
                std::thread::spawn(move || {
                    reserve(&mut registry, &format!("l{n}@1"), "x")
                        .unwrap()
                        .shared
                        .start
                })
            })
            .collect();
        let starts: std::collections::BTreeSet<_> =
            threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(starts.len(), 8);
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let (_folder, mut registry) = registry();
        std::fs::write(&registry.path, b"{\"reservations\": [").unwrap();
        let refused = reserve(&mut registry, "a@1", "x");
        assert!(matches!(refused, Err(RegistryError::Damaged { .. })));
        assert_eq!(std::fs::read(&registry.path).unwrap().len(), 18);
    }

    /// Each number of a file is another one: there is no panic, and what no program has is refused.
    #[test]
    fn numbers_that_no_registry_has_are_refused() {
        fn numbers(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(of) => {
                    for (name, value) in of {
                        numbers(value, &format!("{at}/{name}"), found);
                    }
                }
                serde_json::Value::Array(of) => {
                    for (number, value) in of.iter().enumerate() {
                        numbers(value, &format!("{at}/{number}"), found);
                    }
                }
                serde_json::Value::Number(_) => found.push(at.to_owned()),
                _ => {}
            }
        }
        let (_folder, mut registry) = registry();
        let with_threads = |library| ReservationRequest {
            tls_size: 24,
            tls_alignment: 8,
            ..request(library, "x")
        };
        registry.reserve(&[with_threads("a@1")]).unwrap();
        let book: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&registry.path).unwrap()).unwrap();
        let mut places = Vec::new();
        numbers(&book, "", &mut places);
        for place in &places {
            for number in [u64::MAX, 1 << 63, 1 << 60, 1 << 52] {
                let mut damaged = book.clone();
                *damaged.pointer_mut(place).unwrap() = number.into();
                std::fs::write(&registry.path, damaged.to_string()).unwrap();
                let answer = registry.reserve(&[with_threads("a@2"), with_threads("b@1")]);
                let of_slot = place.contains("/slot/");
                let is_damaged = matches!(answer, Err(RegistryError::Damaged { .. }));
                assert!(is_damaged || !of_slot, "{place} {number}: {answer:?}");
            }
        }
        assert!(
            places
                .iter()
                .any(|place| place.contains("/slot/tls_offset"))
        );
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let mut registry = FileRegistry::new("/proc/no-such-folder/book");
        let refused = reserve(&mut registry, "a@1", "x").unwrap_err();
        assert!(refused.to_string().contains("/proc/no-such-folder/book"));
    }
}
