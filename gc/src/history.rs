//! What the last collections did, for whoever runs a host: kept across restarts, and bounded.

use std::io;
use std::path::Path;

use pool_store::collection::Skipped;
use pool_store::format::{COLLECTIONS_FILE, NEW_COLLECTIONS_FILE};
use pool_store::manifest::Timestamp;
use pool_store::small_file;
use serde::{Deserialize, Serialize};

use crate::{CollectReport, Result, during};

/// Collections that are remembered.
pub const MOST: usize = 64;

/// Segments that were left which are named of each.
const MOST_LEFT: usize = 16;

/// Why a collection was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// It was due.
    Scheduled,
    /// A request found no room on the disk.
    FullDisk,
}

impl Cause {
    /// As histories spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Scheduled => "scheduled",
            Self::FullDisk => "full-disk",
        }
    }
}

/// What became of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It came to its end.
    #[default]
    Done,
    /// Somebody stopped it.
    Stopped,
    /// It could not go on.
    Failed,
}

impl Outcome {
    /// As histories spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What one collection did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// When it was begun.
    pub begun_at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it could not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Library versions removed.
    pub libraries: u64,
    /// Objects removed.
    pub objects: u64,
    /// Pages removed from the index.
    pub pages: u64,
    /// Segments unlinked.
    pub segments: u64,
    /// Bytes of disk given back.
    pub freed_bytes: u64,
    /// Bytes of disk that wait for leases to end.
    pub waiting_bytes: u64,
    /// Segments that should have gone and stayed.
    pub left: u64,
    /// The first of them, and why.
    pub segments_left: Vec<Skipped>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The longest that it kept commits waiting, in microseconds.
    pub longest_hold_us: u64,
}

impl Collected {
    /// What is remembered of a collection that was begun then.
    pub fn of(
        begun_at: Timestamp,
        cause: Cause,
        result: &std::result::Result<CollectReport, String>,
    ) -> Self {
        let nothing = CollectReport::default();
        let report = result.as_ref().unwrap_or(&nothing);
        let outcome = match result {
            Err(_) => Outcome::Failed,
            Ok(report) if report.stopped => Outcome::Stopped,
            Ok(_) => Outcome::Done,
        };
        Self {
            begun_at,
            cause,
            outcome,
            error: result.as_ref().err().cloned(),
            libraries: report.libraries.len() as u64,
            objects: report.objects,
            pages: report.pages,
            segments: report.segments_reaped.len() as u64,
            freed_bytes: report.freed_bytes,
            waiting_bytes: report.waiting_bytes,
            left: report.segments_skipped.len() as u64,
            segments_left: report
                .segments_skipped
                .iter()
                .take(MOST_LEFT)
                .cloned()
                .collect(),
            duration_us: report.duration_us,
            longest_hold_us: report.longest_hold_us,
        }
    }

    /// True when nobody asked for it and it found nothing to do.
    fn is_idle(&self) -> bool {
        let removed = self.libraries + self.objects + self.pages + self.segments;
        let remains = self.waiting_bytes + self.left;
        self.cause != Cause::Asked && self.outcome == Outcome::Done && removed + remains == 0
    }
}

/// The last collections of a store, in the file `collections` of its directory. One that
/// cannot be read is taken for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// None is begun, or goes on, before somebody says so.
    #[serde(default)]
    pub paused: bool,
    /// The newest first.
    #[serde(default)]
    pub last: Vec<Collected>,
}

impl History {
    /// That of the store in a directory.
    pub fn read(directory: &Path) -> Self {
        let path = directory.join(COLLECTIONS_FILE);
        let read = match small_file::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the history of collections begins anew");
            Self::default()
        })
    }

    /// Adds a collection, and forgets the oldest one if there are too many. Of those in a row that nobody asked for and that
    /// found nothing, which is most of them, the newest is kept.
    pub fn add(&mut self, collected: Collected) {
        if collected.is_idle() && self.last.first().is_some_and(Collected::is_idle) {
            self.last.remove(0);
        }
        self.last.insert(0, collected);
        self.last.truncate(MOST);
    }

    /// Puts it into the directory, whole or not at all, and waits until it survives a power cut.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let new = directory.join(NEW_COLLECTIONS_FILE);
        let path = directory.join(COLLECTIONS_FILE);
        let json = serde_json::to_vec(self).expect("it has only string keys");
        // Somebody was told that collections wait.
        let written = small_file::replace_durably(&path, &new, &json);
        during("noting what collections did", written)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pool_core::extent::SegmentId;
    use pool_store::collection::SkipReason;

    use super::*;

    #[test]
    fn of_those_that_found_nothing_the_newest_is_kept() {
        let mut history = History::default();
        let nothing = CollectReport::default();
        let some = CollectReport {
            pages: 1,
            ..CollectReport::default()
        };
        for (at, cause, report) in [
            (1, Cause::Scheduled, &nothing),
            (2, Cause::Scheduled, &nothing),
            (3, Cause::Scheduled, &some),
            (4, Cause::Asked, &nothing),
            (5, Cause::Scheduled, &nothing),
            (6, Cause::FullDisk, &nothing),
            (7, Cause::Asked, &nothing),
        ] {
            history.add(Collected::of(at, cause, &Ok(report.clone())));
        }
        let begun: Vec<_> = history.last.iter().map(|one| one.begun_at).collect();
        assert_eq!(begun, [7, 6, 4, 3, 2]);
    }

    #[test]
    fn it_is_bounded_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(History::read(directory.path()), History::default());
        let left = |id| Skipped {
            segment: SegmentId(id),
            reason: SkipReason::NoRoom,
            why: "the disk has 5".into(),
        };
        let report = CollectReport {
            freed_bytes: 5,
            segments_skipped: (0..100).map(left).collect(),
            ..CollectReport::default()
        };
        let mut history = History {
            paused: true,
            ..History::default()
        };
        for nth in 0..2 * MOST as u64 {
            let result = match nth % 3 {
                0 => Ok(report.clone()),
                1 => Err("why".to_owned()),
                _ => Ok(CollectReport {
                    stopped: true,
                    ..CollectReport::default()
                }),
            };
            history.add(Collected::of(nth, Cause::Scheduled, &result));
        }
        assert_eq!(history.last.len(), MOST);
        let first = &history.last[0];
        assert_eq!((first.begun_at, first.outcome), (127, Outcome::Failed));
        assert_eq!(first.error.as_deref(), Some("why"));
        let full = &history.last[1];
        assert_eq!((full.left, full.segments_left.len()), (100, MOST_LEFT));
        assert_eq!((full.outcome, full.freed_bytes), (Outcome::Done, 5));
        assert_eq!(history.last[2].outcome, Outcome::Stopped);
        history.write(directory.path()).unwrap();
        assert_eq!(History::read(directory.path()), history);
        fs::write(directory.path().join(COLLECTIONS_FILE), b"{\"last\": [").unwrap();
        assert_eq!(History::read(directory.path()), History::default());
    }
}
