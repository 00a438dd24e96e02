//! What tests that collect share.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes it and uses a part"
)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pool_core::ObjectId;
use pool_core::page::PAGE_SIZE;
use pool_gc::{CollectOptions, FsckLevel, collect, fsck};
use pool_store::manifest::TokenScope;
use pool_store::placement::Placement;
use pool_store::{Store, StoreView};

use crate::common::{content, library_ref, push_image, push_library, reservation};

/// In windows from the first page on.
pub const DENSE: Placement = Placement::Windows { phase: 0 };

/// Nothing that could go is waited for.
pub const NOW: CollectOptions = CollectOptions {
    grace: Duration::ZERO,
    dry_run: false,
    compact_below: 0.5,
};

/// Compares every byte of a store with its digests, and finds nothing.
pub fn assert_sound(store: &StoreView) {
    let report = fsck(store, FsckLevel::Content);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

/// Collects everything that can go, and moves nearly all that is left.
pub fn collect_all(store: &Store) {
    let options = CollectOptions {
        compact_below: 0.95,
        ..NOW
    };
    collect(store, &options).unwrap();
}

/// A reader beside whoever has the store.
pub fn follow(store: &Path) -> StoreView {
    static READERS: AtomicU64 = AtomicU64::new(0);
    let nth = READERS.fetch_add(1, Ordering::Relaxed);
    let scratch = store.with_file_name(format!("scratch-{nth}"));
    StoreView::follow(store, &scratch).unwrap()
}

/// Puts something of every kind into a store.
pub fn fill(store: &Store) {
    push_library(store, "sparse@1", &content(1, 70), Placement::Sparse).unwrap();
    push_library(store, "dense@1", &content(2, 600), DENSE).unwrap();
    // A window of its own whose pages are known, and zeros inside.
    let mut mixed = content(1, 70);
    mixed.extend(vec![0; 3 * PAGE_SIZE as usize]);
    mixed.extend(content(3, 440));
    push_library(store, "mixed@1", &mixed, DENSE).unwrap();
    let library = content(2, 600);
    push_image(store, "app:v1", &content(4, 30), &[("dense@1", &library)]).unwrap();
    let request = reservation("dense@1", b"members");
    store.reserve_addresses(&[request]).unwrap().unwrap();
    let secret = ObjectId::of(b"secret");
    store.add_token("ci", secret, TokenScope::Write).unwrap();
    for library in ["sparse@1", "mixed@1"] {
        store.pin_library(&library_ref(library), true).unwrap();
    }
}
