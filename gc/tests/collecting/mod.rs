//! What tests that collect share.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes it and uses a part"
)]

use std::time::Duration;

use pool_gc::{CollectOptions, FsckLevel, fsck};
use pool_store::StoreView;

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
