//! What a follower does not do to see what was committed: it starts no threads, and writes nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fs;
use std::sync::OnceLock;

use common::{content, library_ref, open, push_library};
use pool_store::placement::Placement;
use pool_store::upload::page_ids;
use pool_store::{Store, StoreOptions, StoreView};

thread_local! {
    /// Threads that this one has started, by whatever is linked into this program. Other tests may be running.
    static STARTED: Cell<usize> = const { Cell::new(0) };
    /// It can start no more.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

type Routine = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    Routine,
    *mut c_void,
) -> c_int;

/// Counts, and calls the C library's, or fails as that does.
///
/// # Safety
///
/// As pthread_create(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    routine: Routine,
    argument: *mut c_void,
) -> c_int {
    static REAL: OnceLock<Create> = OnceLock::new();
    STARTED.set(STARTED.get() + 1);
    if REFUSED.get() {
        return libc::EAGAIN;
    }
    let real = REAL.get_or_init(|| {
        // SAFETY: the name is a C string, and RTLD_NEXT finds the C library's function of that
        // name, whose type this is.
        unsafe {
            let found = libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr());
            std::mem::transmute::<*mut c_void, Create>(found)
        }
    });
    // SAFETY: the caller's arguments, unchanged.
    unsafe { real(thread, attributes, routine, argument) }
}

#[test]
fn a_refresh_starts_no_thread() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let before = STARTED.get();
    std::thread::spawn(|| ()).join().unwrap();
    assert_eq!(STARTED.get(), before + 1, "threads are counted");

    let mut store = open(directory.path());
    let follower = StoreView::follow(directory.path(), &scratch.path().join("f")).unwrap();
    for nth in 0..6 {
        push_library(
            &store,
            &format!("l{nth}@1"),
            &content(nth, 40),
            Placement::Sparse,
        )
        .unwrap();
        if nth % 2 == 1 {
            // An opening makes tables of the log, for the follower to open.
            drop(store);
            store = Store::open(directory.path(), StoreOptions::default()).unwrap();
        }
        let before = STARTED.get();
        follower.refresh().unwrap();
        assert_eq!(STARTED.get(), before, "commit {nth}");
        let found = follower
            .library(&library_ref(&format!("l{nth}@1")))
            .unwrap();
        assert!(found.is_some());
    }
}

/// Its notes may lie in memory (/run).
#[test]
fn a_followers_notes_do_not_grow() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let notes = |nth: u64| scratch.path().join(format!("follower{nth}"));
    let mut store = open(directory.path());
    let mut pushed = 0;
    let mut push = |store: &Store| {
        pushed += 1;
        let name = format!("l{pushed}@1");
        push_library(store, &name, b"bytes", Placement::Sparse).unwrap();
    };
    let mut told = |refreshes| {
        let follower = StoreView::follow(directory.path(), &notes(refreshes)).unwrap();
        let log = fs::File::open(notes(refreshes).join("LOG")).unwrap();
        for _ in 0..refreshes {
            push(&store);
            follower.refresh().unwrap();
        }
        // All of it is written when the index is closed.
        drop(follower);
        log.metadata().unwrap().len()
    };
    let (few, many) = (told(1), told(61));
    assert!(many < few + 1000, "{few} bytes, then {many}");

    let follower = StoreView::follow(directory.path(), &notes(2)).unwrap();
    let files = || fs::read_dir(notes(2)).unwrap().count();
    let first = files();
    for _ in 0..6 {
        // What it has in memory is older than a table then, and it opens the index anew.
        drop(store);
        store = Store::open(directory.path(), StoreOptions::default()).unwrap();
        push(&store);
        follower.refresh().unwrap();
    }
    assert_eq!(files(), first);
    // The writer's go on beside the index for as long as it runs.
    let told = fs::read_to_string(directory.path().join("index/LOG")).unwrap();
    let limit = "Options.max_log_file_size: ";
    let limit = told.lines().find_map(|line| line.split(limit).nth(1));
    assert!(limit.is_some_and(|bytes| bytes.trim() != "0"), "{limit:?}");
}

#[test]
fn pages_are_hashed_where_no_thread_can_be_made() {
    let bytes = content(1, 3000);
    let expected = page_ids(&bytes[..4096 * 3]);
    REFUSED.set(true);
    let found = page_ids(&bytes);
    REFUSED.set(false);
    assert_eq!((found.len(), &found[..3]), (3000, &expected[..]));
}
