//! The mark: how many commits have been acknowledged, kept outside the index.
//!
//! It is the `generation` file, 8 bytes that are overwritten in place after a commit's batch and
//! before its answer. So an index that has counted fewer commits than the mark is an older one, or a
//! damaged one, whatever its own checksums say; one that has counted more is right, since a stop may
//! come between the two, and a power cut may take the last values along: they are synced in a store
//! without journal alone. Readers take a new value for news.

use std::fs::{self, File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::backend::{Identity, sync_parent};
use crate::error::{Result, StoreError};

/// The mark of one store, opened for writing by its writer and for reading by everybody else.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    /// Another one once it was [made anew](Mark::make_anew).
    opened: RwLock<Opened>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    identity: Identity,
}

impl Mark {
    /// Opens the mark to read it. `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        Self::open_with(path, OpenOptions::new().read(true))
    }

    /// Opens the mark to advance it, and makes one where there is none.
    pub(crate) fn open_for_writing(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        Self::open_with(path, &options)?.ok_or_else(|| {
            StoreError::io("creating", path, io::Error::from(io::ErrorKind::NotFound))
        })
    }

    fn open_with(path: &Path, options: &OpenOptions) -> Result<Option<Self>> {
        let refused = |why: String| StoreError::Refused {
            path: path.parent().unwrap_or(path).into(),
            why: format!("its {} {why}", path.display()),
        };
        // A link to nowhere is no absent file: what it stands for is to be found, not made anew.
        let link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        if link && !path.exists() {
            let target = fs::read_link(path).unwrap_or_default();
            return Err(refused(format!(
                "is a link to {}, which is not there: mount what holds it, or put the file back",
                target.display()
            )));
        }
        // A pipe would otherwise be waited for.
        let mut options = options.clone();
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(refused(format!(
                    "cannot be opened ({error}): let this user read it, and the writer write it \
                     (chown, chmod, chattr -i)"
                )));
            }
            // What cannot be opened at all, as a socket, is not a file either.
            Err(source) => match fs::metadata(path) {
                Ok(found) if !found.is_file() => {
                    return Err(refused(not_a_file(found.file_type())));
                }
                _ => return Err(StoreError::io("opening", path, source)),
            },
        };
        let found = file
            .metadata()
            .map_err(|source| StoreError::io("opening", path, source))?;
        if !found.is_file() {
            return Err(refused(not_a_file(found.file_type())));
        }
        Ok(Some(Self {
            path: path.into(),
            opened: RwLock::new(Opened {
                file,
                identity: (found.dev(), found.ino()),
            }),
        }))
    }

    fn opened(&self) -> RwLockReadGuard<'_, Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which file it is, whatever is at its path by now.
    pub(crate) fn identity(&self) -> Identity {
        self.opened().identity
    }

    /// What is at its path by now, opened to read it.
    pub(crate) fn at_path(&self) -> Result<Option<Self>> {
        Self::open(&self.path)
    }

    /// Notes `commits` in the file that is at its path by now, which is made where there is none, and goes on with that. Readers
    /// look at the path, too.
    pub(crate) fn make_anew(&self, commits: u64) -> Result<()> {
        let there = Self::open_for_writing(&self.path)?;
        there.advance(commits)?;
        sync_parent(&self.path)?;
        let there = there.opened.into_inner();
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) =
            there.unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    /// Commits acknowledged so far; `None` when the file is too short to say.
    pub(crate) fn read(&self) -> Result<Option<u64>> {
        let mut bytes = [0; 8];
        match FileExt::read_exact_at(&self.opened().file, &mut bytes, 0) {
            Ok(()) => Ok(Some(u64::from_le_bytes(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(StoreError::io("reading", &self.path, source)),
        }
    }

    /// Notes that `commits` commits were made, and waits until the note survives a power cut. After
    /// a failure it can be called again: what is written anew is synced anew.
    pub(crate) fn advance(&self, commits: u64) -> Result<()> {
        self.write(commits)
            .map_err(|source| StoreError::io("writing", &self.path, source))
    }

    /// As [`Mark::advance`], and waits for nothing.
    pub(crate) fn note(&self, commits: u64) -> Result<()> {
        self.put(commits)
            .map_err(|source| StoreError::io("writing", &self.path, source))
    }

    /// As [`Mark::advance`], for `commits` commits that were made and wait for an answer.
    pub(crate) fn acknowledge(&self, commits: u64) -> Result<()> {
        self.write(commits).map_err(|error| StoreError::InDoubt {
            path: self.path.clone(),
            error,
        })
    }

    fn put(&self, commits: u64) -> io::Result<()> {
        FileExt::write_all_at(&self.opened().file, &commits.to_le_bytes(), 0)
    }

    fn write(&self, commits: u64) -> io::Result<()> {
        self.put(commits)?;
        self.opened().file.sync_data()
    }
}

fn not_a_file(found: FileType) -> String {
    let what = if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    format!("is {what} and not a file: move it away and put the file back, an older copy will do")
}
