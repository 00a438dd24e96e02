//! Segments that somebody maps.

use pool_core::page::PAGE_SIZE;
use pool_gc::collect;

use super::collecting::{NOW, assert_sound};
use super::common::open;
use super::{KEPT, SLOTS, first_extent, mostly_dead, skipped};

#[test]
fn leased_segments_are_told_and_go_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = mostly_dead(&store, 6);
    let leased = first_extent(&store, &kept[2]).segment;
    let held = store.hold_segment(leased).unwrap();
    for _ in 0..2 {
        let report = collect(&store, &NOW).unwrap();
        assert_eq!(report.segments_waiting, [leased], "{report:#?}");
        let dead = (SLOTS - KEPT) as u64 * PAGE_SIZE;
        assert_eq!(report.waiting_bytes, dead);
        assert_eq!(skipped(&report), []);
    }
    drop(held);
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(report.segments_evacuated, [leased]);
    assert_eq!(
        (report.segments_waiting.len(), report.waiting_bytes),
        (0, 0)
    );
    assert_sound(&store);
}
