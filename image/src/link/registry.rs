//! Where a link gets addresses from.
//!
//! The linker asks for one library version at a time and keeps no record of its own: whoever
//! implements [`Registry`] persists a reservation before it answers with it, since from then on
//! bytes exist that depend on it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use pool_core::registry::{AddressBook, Reservation, ReservationRequest, ReserveError};
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
    /// Reserves addresses, or repeats the answer given before for the same request.
    fn reserve(&mut self, request: &ReservationRequest) -> Result<Reservation, RegistryError>;
}

/// A book in memory, for trying a layout out: nothing outlives it.
impl Registry for AddressBook {
    fn reserve(&mut self, request: &ReservationRequest) -> Result<Reservation, RegistryError> {
        Ok(AddressBook::reserve(self, request)?)
    }
}

/// A registry in a file, for builds without a pool service. Builds on one machine may share it:
/// each reservation holds an exclusive lock (`flock`) on `FILE.lock`, and the book is replaced
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
    fn reserve(&mut self, request: &ReservationRequest) -> Result<Reservation, RegistryError> {
        let _held = self.lock()?;
        let mut book = self.read()?;
        let before = book.reservations().len();
        let reservation = AddressBook::reserve(&mut book, request)?;
        if book.reservations().len() != before {
            self.write(&book)?;
        }
        Ok(reservation)
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
        ReservationRequest {
            library: library.parse().unwrap(),
            identity: ObjectId::of(contents.as_bytes()),
            shared_pages: PageCount(3),
            private_pages: PageCount(1),
            tls_size: 0,
            tls_alignment: 1,
            dependencies: vec![],
        }
    }

    fn registry() -> (tempfile::TempDir, FileRegistry) {
        let folder = tempfile::tempdir().unwrap();
        let registry = FileRegistry::new(folder.path().join("addresses.json"));
        (folder, registry)
    }

    #[test]
    fn reservations_outlive_the_process() {
        let (_folder, mut registry) = registry();
        let first = registry.reserve(&request("a@1", "x")).unwrap();
        let other = registry.reserve(&request("b@1", "y")).unwrap();
        assert_ne!(first.shared.start, other.shared.start);
        let mut again = FileRegistry::new(&registry.path);
        assert_eq!(again.reserve(&request("a@1", "x")).unwrap(), first);
        assert!(matches!(
            again.reserve(&request("a@1", "z")),
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
                    registry
                        .reserve(&request(&format!("l{n}@1"), "x"))
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
        let refused = registry.reserve(&request("a@1", "x"));
        assert!(matches!(refused, Err(RegistryError::Damaged { .. })));
        assert_eq!(std::fs::read(&registry.path).unwrap().len(), 18);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let mut registry = FileRegistry::new("/proc/no-such-folder/book");
        let refused = registry.reserve(&request("a@1", "x")).unwrap_err();
        assert!(refused.to_string().contains("/proc/no-such-folder/book"));
    }
}
