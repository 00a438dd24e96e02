//! What is made durable before what: a segment's size, name and pages before the record that tells
//! of them, in the journal and then in the index.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::ffi::c_int;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use common::{content, library_ref, open, push_library};
use pool_gc::{CollectOptions, collect};
use pool_store::placement::Placement;

/// What was synced, in order: the last two components of its path.
static SYNCED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

type Sync = fn(BorrowedFd<'_>) -> rustix::io::Result<()>;

/// Notes what is synced, whoever of this program asks for it, and asks the kernel.
fn note(descriptor: c_int, sync: Sync) -> c_int {
    let path = fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap_or_default();
    let skip = path.iter().count().saturating_sub(2);
    SYNCED
        .lock()
        .unwrap()
        .push(path.iter().skip(skip).collect());
    // SAFETY: whoever asks has the descriptor open until this returns.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    sync(descriptor).map_or(-1, |()| 0)
}

/// As fsync(2).
#[unsafe(no_mangle)]
pub extern "C" fn fsync(descriptor: c_int) -> c_int {
    note(descriptor, |file| rustix::fs::fsync(file))
}

/// As fdatasync(2).
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    note(descriptor, |file| rustix::fs::fdatasync(file))
}

/// What `work` syncs: `log` of the index, `frame` of the journal, `segment`, `names` for their directory.
fn synced(work: impl FnOnce()) -> Vec<&'static str> {
    SYNCED.lock().unwrap().clear();
    work();
    let synced = SYNCED.lock().unwrap();
    let name = |path: &PathBuf| {
        let is = |end| path.extension().is_some_and(|found| found == end);
        match () {
            () if path.starts_with("journal") => Some("frame"),
            () if path.ends_with("segments") => Some("names"),
            () if is("seg") => Some("segment"),
            () if is("log") => Some("log"),
            () => None,
        }
    };
    synced.iter().filter_map(name).collect()
}

#[test]
fn nothing_is_on_record_before_it_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let push = |name: &str, seed, pages| {
        push_library(&store, name, &content(seed, pages), Placement::Sparse).unwrap();
    };
    // The segment's number is on record before its file is there; it has no slot in use.
    let new = ["frame", "log", "segment", "names"];
    let commit = ["segment", "frame", "log"];
    let first = synced(|| push("kept@1", 1, 300));
    assert_eq!(first, [&new[..], &commit].concat());
    // To its last slot, so that what is moved out of it needs a new one.
    assert_eq!(synced(|| push("dead@1", 2, 724)), commit);
    store.pin_library(&library_ref("kept@1"), true).unwrap();

    let all = CollectOptions {
        grace: Duration::ZERO,
        dry_run: false,
        compact_below: 0.5,
    };
    let collected = synced(|| {
        let report = collect(&store, &all).unwrap();
        assert_eq!(report.segments_evacuated.len(), 1, "{report:#?}");
    });
    // The new segment, its slots, then the pages in them, and only then what refers to them.
    let moved = [&new[..], &["frame", "log"], &commit].concat();
    let found = collected.windows(moved.len()).any(|part| part == moved);
    assert!(found, "{collected:?}");
}
