//! What stands in the way of a collection, and that it gets on with the rest: damaged segments, a
//! full disk, leases, damage of the index, few descriptors.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../../store/tests/closed/mod.rs"]
mod closed;
#[path = "../collecting/mod.rs"]
mod collecting;
#[path = "../../../store/tests/common/mod.rs"]
mod common;
mod damaged;
mod descriptors;
mod full_disk;
mod leased;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::{content, library_ref, push_library};
use pool_core::ObjectId;
use pool_core::extent::{Extent, SegmentId};
use pool_gc::CollectReport;
use pool_store::collection::SkipReason;
use pool_store::placement::Placement;
use pool_store::{Store, StoreView};

/// Slots of a segment of [`open`].
const SLOTS: usize = 1024;

/// Pages of a segment of [`mostly_dead`] that stay.
const KEPT: usize = SLOTS / 4;

/// Fills `segments` segments of single pages, a quarter of each for ever and the rest garbage;
/// answers with what stays.
fn mostly_dead(store: &Store, segments: u64) -> Vec<Vec<u8>> {
    (0..segments)
        .map(|nth| {
            let kept = content(1000 + nth, KEPT);
            let name = format!("kept{nth}@1");
            push_library(store, &name, &kept, Placement::Sparse).unwrap();
            store.pin_library(&library_ref(&name), true).unwrap();
            let dead = content(2000 + nth, SLOTS - KEPT);
            push_library(store, &format!("dead{nth}@1"), &dead, Placement::Sparse).unwrap();
            kept
        })
        .collect()
}

fn first_extent(view: &StoreView, bytes: &[u8]) -> Extent {
    let record = view.object(ObjectId::of(bytes)).unwrap().unwrap();
    record.map.extents()[0]
}

fn segment_path(directory: &Path, id: SegmentId) -> PathBuf {
    directory.join(format!("segments/{id}.seg"))
}

/// Segment files and the bytes of disk that they take up.
fn usage(directory: &Path) -> (usize, u64) {
    let files: Vec<_> = fs::read_dir(directory.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .collect();
    let bytes = files.iter().map(|file| file.blocks() * 512).sum();
    (files.len(), bytes)
}

fn skipped(report: &CollectReport) -> Vec<(SegmentId, SkipReason)> {
    let skipped = report.segments_skipped.iter();
    skipped.map(|left| (left.segment, left.reason)).collect()
}
