//! What can go wrong in a store, said so that a person knows what to do next.

use std::io;
use std::path::PathBuf;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{ExtentError, SegmentId};
use thiserror::Error;

use crate::manifest::Revision;

/// Any failure of the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{doing} {path}: {error}{}", rights(error.kind()), path = path.display())]
    Io {
        /// The operation, as in "opening".
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said. Part of the message, so not a source of its own.
        error: io::Error,
    },
    /// The disk or a quota is full.
    #[error(
        "no space left while {doing} {path}: {}; {}", .again.outcome(), .again.advice(), path = path.display()
    )]
    NoSpace {
        /// The operation.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// When changes are taken again.
        again: Again,
    },
    /// A change was made and is not acknowledged.
    #[error(
        "the change is made and not acknowledged: {path} cannot be written ({error}), so its loss \
         would not be noticed; nothing else is changed until it can be written, so mend that \
         (dmesg, df, lsattr), then ask for the change again: it finds what is there",
        path = path.display()
    )]
    InDoubt {
        /// The mark.
        path: PathBuf,
        /// What the system said. Part of the message, so not a source of its own.
        error: io::Error,
    },
    /// The index failed.
    #[error("{doing} the index: {error}{}", rights_of_index(error.as_ref()))]
    Index {
        /// The operation, as in "reading".
        doing: &'static str,
        /// What RocksDB said. Part of the message, so not a source of its own.
        error: rocksdb::Error,
    },
    /// The directory holds no store.
    #[error(
        "{path} is not a pool store: {why} (pool init --store DIR makes one in a new or empty \
         directory)", path = path.display()
    )]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// What is in the directory does not belong together, or is damaged.
    #[error("the store at {path} is left as it is: {why}", path = path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// No store can be made there, or not such a one.
    #[error("no store is made in {path}: {why}", path = path.display())]
    NotMade {
        /// The directory.
        path: PathBuf,
        /// What is in the way, and what to do.
        why: String,
    },
    /// A backup, or a catalogue, cannot be made or used.
    #[error("{path} {why}", path = path.display())]
    Backup {
        /// The backup's directory, or the file.
        path: PathBuf,
        /// What is in the way, and what to do.
        why: String,
    },
    /// The store is of a form that this program does not know.
    #[error(
        "the store at {path} {what}: use a newer release of this program (nothing was changed)",
        path = path.display()
    )]
    Unsupported {
        /// The directory.
        path: PathBuf,
        /// What is unknown.
        what: String,
    },
    /// Another process has the store open for writing.
    #[error(
        "the store at {path} is in use by another process; stop its poolsvc, or ask that service \
         instead of opening the store directly", path = path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A reader does not [follow](crate::StoreView::follow_closely) what it is asked for.
    #[error(
        "this reader of the store does not know its {0}, which StoreView::follow would have it know"
    )]
    NotFollowed(&'static str),
    /// Stored data is not what it must be.
    #[error("the store is damaged: {0}; run pool fsck")]
    Corrupt(String),
    /// An extent map read from the index is wrong.
    #[error("the store is damaged: the extents of object {0} are wrong ({1}); run pool fsck")]
    Extents(ObjectId, ExtentError),
    /// Pages that the store has by their digests are not what those say.
    #[error(
        "the store is damaged: pages that it has of object {0} are not what their digests say, so nothing \
         was stored or sent; pool fsck --content says which, and the next push of them mends them"
    )]
    Damaged(ObjectId),
    /// A page's bytes do not have the digest they were sent under.
    #[error("the bytes sent as page {expected} have digest {found}: send the page again")]
    PageMismatch {
        /// Digest it was sent under.
        expected: PageId,
        /// Digest of the bytes.
        found: PageId,
    },
    /// An upload refers to objects that the pool does not have, or cannot read.
    #[error(
        "the upload refers to {} objects that are neither announced nor to be had from the pool, {} the \
         first: announce them, too", .0.len(), .0[0]
    )]
    UnknownObjects(Vec<ObjectId>),
    /// A page was sent that the upload does not need.
    #[error("page {0} is not part of this upload")]
    UnexpectedPage(PageId),
    /// A commit refers to pages that are neither stored nor sent.
    #[error(
        "{} pages of this upload are missing, {} the first: send them, then commit again",
        .0.len(), .0[0]
    )]
    MissingPages(Vec<PageId>),
    /// The pages of an upload do not make up the object they are said to.
    #[error(
        "the pages announced for object {expected} make up object {found}: the upload is refused; if they \
         are the right ones, some that the pool has are damaged (pool fsck --content)"
    )]
    ObjectMismatch {
        /// Digest announced.
        expected: ObjectId,
        /// Digest of its pages, those that the pool had included.
        found: ObjectId,
    },
    /// An upload describes something impossible.
    #[error("the upload is refused: {0}")]
    BadUpload(String),
    /// A library version exists with other content.
    #[error(
        "{library} is already in the pool with other content ({stored}, not {pushed}): a version \
         never changes, so push it as another version"
    )]
    VersionConflict {
        /// The library version.
        library: String,
        /// Object on record.
        stored: ObjectId,
        /// Object in the upload.
        pushed: ObjectId,
    },
    /// Nothing has that name.
    #[error("there is no {0} in the pool")]
    NotFound(String),
    /// A library version cannot be removed while something uses it.
    #[error("{what} is in use: {why}")]
    InUse {
        /// The thing.
        what: String,
        /// Who uses it, and what to do.
        why: String,
    },
    /// A name is not what the author of a change expects.
    #[error(
        "{what} is not what the request expects: {}; look at it again before changing it",
        state(.found.as_ref())
    )]
    PreconditionFailed {
        /// The name.
        what: String,
        /// The state that it is in, `None` when it does not exist.
        found: Option<Revision>,
    },
    /// A quota is reached.
    #[error(
        "under the names that begin with \"{prefix}\" there would be {would_be} bytes of files, and the quota is {quota}: remove \
         what is not needed of the {used} bytes there (pool rm), or have it raised"
    )]
    QuotaExceeded {
        /// What the names begin with.
        prefix: String,
        /// Bytes.
        quota: u64,
        /// Bytes under those names.
        used: u64,
        /// Bytes that there would be.
        would_be: u64,
    },
    /// A collection is running already.
    #[error("a collection is running already; wait for it to end")]
    CollectionRunning,
    /// Somebody has stopped the collection.
    #[error("the collection was stopped: what it did stays done, and the next one does the rest")]
    CollectionStopped,
    /// The index is not to be trusted.
    #[error(
        "nothing is collected: the index of {path} was found damaged, or to differ from the journal, which may have what the \
         index does not refer to: stop poolsvc and repair it (pool repair --store {path}), or have it found whole (pool scrub)",
        path = path.display()
    )]
    Distrusted {
        /// The store's directory.
        path: PathBuf,
    },
    /// A segment is not there.
    #[error("segment {0} is gone: look its pages up again")]
    NoSegment(SegmentId),
}

/// When a store takes changes again that had no space left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// As soon as there is some.
    WithSpace,
    /// The index, by itself, some seconds after so many bytes are free.
    WithRoom(u64),
    /// The index, when it has been opened again.
    Opened,
    /// It could not be opened, and can be once as much is free on that disk.
    Openable {
        /// Bytes that may be needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
}

impl Again {
    fn outcome(self) -> &'static str {
        match self {
            Self::WithSpace => "nothing was changed",
            // The index's log may hold what it refused.
            Self::WithRoom(_) | Self::Opened => {
                "the change cannot be seen, and may be there, whole, when the store is next opened"
            }
            Self::Openable { .. } => "the store is not opened, and what it has is kept",
        }
    }

    fn advice(self) -> String {
        const FREE: &str = "free space or collect unused pages (pool gc), then try again";
        match self {
            Self::WithSpace => FREE.into(),
            Self::WithRoom(room) => format!(
                "{FREE} (the index takes changes again a few seconds after {} MiB of its disk are free)",
                room >> 20
            ),
            Self::Opened => format!(
                "{FREE} (after a quota was reached the index takes changes again once poolsvc is \
                 restarted)"
            ),
            Self::Openable { needed, free } => format!(
                "{} MiB should be free on that disk, or under its quota, and {} are (df): remove other files there, or those in the \
                 store's lost/ that nobody misses, then start again; once it is open, pool gc gives back what unused pages take",
                needed.div_ceil(1 << 20),
                free >> 20
            ),
        }
    }
}

fn state(found: Option<&Revision>) -> String {
    found.map_or_else(
        || "it does not exist".to_owned(),
        |revision| format!("it exists, with the ETag \"{revision}\""),
    )
}

/// A result whose error is a [`StoreError`].
pub type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// True where the index is as it was, and whoever asked may not use it: the error says what to do then.
    pub(crate) fn is_for_lack_of_rights(&self) -> bool {
        matches!(self, Self::Index { error, .. } if !rights_of_index(error.as_ref()).is_empty())
    }

    /// Wraps an I/O error, telling a full disk from all else.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        if full {
            let again = Again::WithSpace;
            Self::NoSpace { doing, path, again }
        } else {
            Self::Io { doing, path, error }
        }
    }
}

/// Why an index is refused, and what to do: it is another store's.
pub(crate) fn another_store() -> String {
    "its index belongs to another store: put the index back that belongs to this one".into()
}

/// Why an index is refused, and what to do: it does not say whose it is, which every index does.
pub(crate) fn lacks_tables() -> String {
    "its index does not say whose it is, so files of it are missing: put them back, or see what pool fsck says".into()
}

/// Why an index is refused, and what to do: commits are missing. `knows` says of what, as in "its index knows".
pub(crate) fn older(knows: &str, commits: u64, acknowledged: u64) -> String {
    format!(
        "{knows} of {commits} commits, and {acknowledged} were acknowledged: it is an older \
         one, or its log is damaged; put the newest index back, with all its files; if the index is \
         known to be the newest, the count in generation is wrong, and 8 zero bytes there will do"
    )
}

/// What to do where an operation was refused for who asked, or for where it is.
fn rights(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "; run this as the user that the store belongs to, or let this one use it (chown, chmod, lsattr)"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; mount that filesystem for writing",
        _ => "",
    }
}

/// The same of what RocksDB says: it has words alone.
fn rights_of_index(said: &str) -> &'static str {
    if said.contains("Permission denied") || said.contains("Operation not permitted") {
        rights(io::ErrorKind::PermissionDenied)
    } else if said.contains("Read-only file system") {
        rights(io::ErrorKind::ReadOnlyFilesystem)
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_is_told_what_to_do() {
        let told = |kind: io::ErrorKind| StoreError::io("opening", "/x", kind.into()).to_string();
        assert!(told(io::ErrorKind::PermissionDenied).contains("chown"));
        assert!(told(io::ErrorKind::ReadOnlyFilesystem).contains("mount"));
        assert!(!told(io::ErrorKind::NotFound).contains(';'));
        // As RocksDB has it of a directory that it may not read.
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("LOCK");
        std::fs::create_dir(&file).unwrap();
        let error = rocksdb::DB::open_default(directory.path()).unwrap_err();
        let told = StoreError::Index {
            doing: "opening",
            error,
        };
        assert!(!told.to_string().contains("chown"), "{told}");
        let said = "IO error: While lock file: /store/index/LOCK: Permission denied";
        assert!(rights_of_index(said).contains("chown"));
        assert!(rights_of_index("While opening: Read-only file system").contains("mount"));
    }
}
