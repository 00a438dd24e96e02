//! Backups: a directory that a whole store can be made from again.
//!
//! A backup has a copy of each segment that something refers to, beside it the list of its pages (`page_list`), and
//! one `catalogue` of everything that the index alone knows. Where pages and windows are is not in it: segments, their
//! lists and the objects tell.
//!
//! It is made while a service writes and collects ([`back_up`]): one snapshot of the index is taken along, and its segments
//! are leased meanwhile. What is used of a sealed segment does not change, so its copy is made once, and again when more
//! of it is used than the copy has right: it can have been sealed while commits were filling slots of it. Of an open one each backup
//! has a copy of its own. A copy's name is that of its list, so one of another state never takes its place. The catalogue says which are meant and
//! comes last, in one rename, and what only the former one named goes after that: whatever interrupts
//! a backup leaves the former one whole, and copies that the next one finds.
//!
//! What the store has damaged by the time of a backup, and the former one had right, is taken from there.
//!
//! A page goes into a backup as it is, but the backup knows whether it is right: by its digest where the index has the
//! page at that place, by its window's, or by that of the objects that it is in. [`restore`] makes a store of a new identity,
//! after every page was compared with its list.

mod copied;
mod copy;
mod page_list;
mod place;
mod restore;

use std::path::Path;

use pool_core::digest::ObjectId;
use serde::Serialize;

use crate::error::StoreError;

pub use copy::back_up;
pub use restore::{Damaged, restore, verify};

/// What a backup has, and what was done for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// Commits of the store that it has.
    pub commits: u64,
    /// Segments in it.
    pub segments: u64,
    /// Segments that were copied; the others were there from an earlier backup.
    pub copied_segments: u64,
    /// Bytes of pages that were copied; pages of zeros take up none.
    pub copied_bytes: u64,
    /// Objects that the store was found to have damaged.
    pub damaged_objects: Vec<ObjectId>,
    /// Pages of these that were taken from the former backup, which had them right.
    pub mended_pages: u64,
    /// Those of the damaged objects that are in the backup as they are.
    pub lost_objects: Vec<ObjectId>,
}

/// What is thought of copies that earlier backups have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// They are what their lists say.
    Trusted,
    /// They are read, and made anew if they are not.
    Read,
}

/// What a backup has, and whether a store was made from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// True when there is a store now.
    pub made: bool,
    /// Commits of the store that the backup was made of.
    pub commits: u64,
    /// Segments.
    pub segments: u64,
    /// Objects.
    pub objects: u64,
    /// Library versions.
    pub libraries: u64,
    /// Image tags.
    pub images: u64,
    /// Pages that objects consist of, each place once.
    pub pages: u64,
    /// Objects with pages that the backup has damaged, or that were so in the store.
    pub damaged_objects: Vec<ObjectId>,
}

/// Says of a full disk that it is not the store's.
fn no_room(error: StoreError, advice: &str) -> StoreError {
    match error {
        StoreError::NoSpace { doing, path, .. } => {
            unusable(&path, format!("has no room left ({doing}): {advice}"))
        }
        other => other,
    }
}

/// Says of a catalogue what would be wrong with a store.
fn cannot_be_right(path: &Path, error: &StoreError) -> StoreError {
    let what = match error {
        StoreError::Corrupt(what) => what.clone(),
        other => other.to_string(),
    };
    unusable(
        path,
        format!("has a catalogue that cannot be right: {what}"),
    )
}

fn unusable(path: &Path, why: impl Into<String>) -> StoreError {
    StoreError::Backup {
        path: path.into(),
        why: why.into(),
    }
}
