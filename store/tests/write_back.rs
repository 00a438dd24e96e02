//! A disk that fails a write when it is too late to say so to who wrote: the kernel tells once each who
//! has the file open (fsync(2)), so everybody must ask for himself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::ffi::c_int;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{assert_stored, content, library_ref, open, push_library};
use pool_core::ObjectId;
use pool_store::StoreError;
use pool_store::collection::SkipReason;
use pool_store::placement::Placement;

type Work = Box<dyn FnOnce() + Send>;

/// What is done while the next segment is synced, before that comes to its end.
static MEANWHILE: Mutex<Option<Work>> = Mutex::new(None);
/// What is synced next does not get to the disk.
static FAILS: AtomicBool = AtomicBool::new(false);
/// Descriptors that are to be told of it.
static UNTOLD: Mutex<Vec<c_int>> = Mutex::new(Vec::new());

fn path(descriptor: c_int) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap_or_default()
}

/// Every descriptor that leads to a file.
fn descriptors(file: &Path) -> Vec<c_int> {
    let names = fs::read_dir("/proc/self/fd").unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    let all = names.filter_map(|name| name.to_str()?.parse().ok());
    all.filter(|other| path(*other) == *file).collect()
}

/// As fdatasync(2), with a disk that fails when it is told to.
// SAFETY: it has the name and the signature of the C library's, and does what that one does.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    let file = path(descriptor);
    if file.extension().is_some_and(|end| end == "seg") {
        let work = MEANWHILE.lock().unwrap().take();
        if let Some(work) = work {
            work();
        }
        let mut untold = UNTOLD.lock().unwrap();
        if FAILS.swap(false, Ordering::Relaxed) {
            untold.extend(descriptors(&file));
        }
        if let Some(nth) = untold.iter().position(|other| *other == descriptor) {
            untold.remove(nth);
            // SAFETY: the calling thread's own.
            unsafe { *libc::__errno_location() = libc::EIO };
            return -1;
        }
    }
    // SAFETY: whoever asks has the descriptor open until this returns.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    rustix::fs::fdatasync(descriptor).map_or(-1, |()| 0)
}

#[test]
fn an_evacuation_hears_of_its_lost_pages_though_an_upload_has_heard_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let push = |name: &str, bytes: &[u8]| push_library(&store, name, bytes, Placement::Sparse);
    // A full segment, and one that is appended to.
    let (kept, dead) = (content(1, 300), content(2, 724));
    for (name, bytes) in [
        ("kept@1", &kept),
        ("dead@1", &dead),
        ("open@1", &content(3, 9)),
    ] {
        push(name, bytes).unwrap();
    }
    let place = || {
        let record = store.object(ObjectId::of(&kept)).unwrap().unwrap();
        record.map.extents()[0].segment
    };
    let source = place();
    store.delete_library(&library_ref("dead@1")).unwrap();
    let collection = store.begin_collection().unwrap();
    collection.delete_objects(&[ObjectId::of(&dead)]).unwrap();

    let uploads = Arc::clone(&store);
    *MEANWHILE.lock().unwrap() = Some(Box::new(move || {
        FAILS.store(true, Ordering::Relaxed);
        let refused = push_library(&uploads, "late@1", &content(4, 5), Placement::Sparse);
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    }));
    let done = collection.evacuate(&[source]).unwrap();
    assert!(MEANWHILE.lock().unwrap().is_none());
    let skipped: Vec<_> = done.skipped.iter().map(|left| left.reason).collect();
    assert_eq!(
        (done.segments, skipped),
        (vec![], vec![SkipReason::NotWritten])
    );
    assert_eq!(place(), source);
    assert_stored(&store, &kept);

    push("late@1", &content(4, 5)).unwrap();
    let done = collection.evacuate(&[source]).unwrap();
    assert_eq!(done.segments, [source]);
    assert_stored(&store, &kept);
    assert_stored(&store, &content(4, 5));
}
