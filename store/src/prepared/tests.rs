//! What becomes of slots that a commit was handed, and the disk that commits leave.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pool_tests::disk::SmallDisk;

use super::*;
use crate::StoreError;
use crate::group::Part;
use crate::room::KEPT;
use crate::testing::{self, content as pages};

const SEGMENT_BYTES: u64 = 32 << 20;

fn open(directory: &Path) -> Store {
    testing::open_with(directory, testing::options(SEGMENT_BYTES))
}

/// Writes pages, and answers with where the first is.
fn fill<'a>(store: &'a Store, content: &[u8]) -> Result<(Prepared<'a>, Location)> {
    let mut prepared = Prepared::new(store)?;
    let ids: Vec<_> = content.chunks(PAGE_SIZE as usize).map(PageId::of).collect();
    prepared.write_pages(&mut Hand::Free, &ids, &[content])?;
    let at = prepared.page(&ids[0]).unwrap();
    Ok((prepared, at))
}

fn join(store: &Store, prepared: &mut Prepared<'_>) -> Place {
    let index = &store.view.index;
    let mut writer = store.joining();
    let mut batch = index.batch();
    let recorded = writer.appender.record(&mut batch);
    let part = Part {
        changes: batch.into_changes(),
        pending: Arc::default(),
        written: prepared.written(),
        recorded,
    };
    let place = store.groups.join(index, &store.groups.sight(), part);
    let place = place.unwrap();
    prepared.joined(&place);
    place
}

fn is_there(store: &Store, at: Location, content: &[u8]) -> bool {
    let mut found = vec![0; content.len()];
    let file = store.view.backend.open(at.segment, false).unwrap();
    file.read_exact_at(&mut found, at.slot.byte_offset())
        .unwrap();
    found == content
}

#[test]
fn what_became_of_its_group_says_what_becomes_of_slots() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // Another one under way, so that each sees to its own.
    let (other, _) = fill(&store, &pages(9, 1)).unwrap();
    let index = &store.view.index;

    let (prepared, never_joined) = fill(&store, &pages(1, 1)).unwrap();
    drop(prepared);
    assert!(!is_there(&store, never_joined, &pages(1, 1)));

    let (mut prepared, done) = fill(&store, &pages(2, 1)).unwrap();
    let place = join(&store, &mut prepared);
    store.groups.wait(index, &place).unwrap();
    // Whatever else its author was told.
    drop(prepared);
    assert!(is_there(&store, done, &pages(2, 1)));

    let (mut prepared, still_open) = fill(&store, &pages(3, 1)).unwrap();
    let place = join(&store, &mut prepared);
    drop(prepared);
    assert!(is_there(&store, still_open, &pages(3, 1)));
    store.groups.wait(index, &place).unwrap();
    drop(other);
    // Nobody else is handed them.
    let (_last, at) = fill(&store, &pages(4, 1)).unwrap();
    for (at, seed) in [(done, 2), (still_open, 3)] {
        assert!(is_there(&store, at, &pages(seed, 1)));
    }
    assert!(![done, still_open].contains(&at));
}

#[test]
fn nobody_is_told_of_a_sync_that_another_was_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let index = &store.view.index;
    let much = pages(1, 300);
    let (mut large, _) = fill(&store, &much).unwrap();
    let (mut joined, _) = fill(&store, &pages(2, 1)).unwrap();
    let place = join(&store, &mut joined);
    // As a sync that failed for somebody else leaves it.
    let [(target, _)] = large.written().try_into().unwrap();
    target.spoil();
    assert!(matches!(large.sync_much(), Err(Failed::Other)));
    let failed = store.groups.wait(index, &place).unwrap_err();
    assert!(matches!(failed, Failed::Other), "{failed:?}");
    drop((large, joined));
    // Whoever comes next writes to a file that was opened anew.
    let (_next, at) = fill(&store, &much).unwrap();
    assert!(is_there(&store, at, &much));
}

#[test]
fn commits_under_way_leave_room_between_them() {
    let Some(disk) = SmallDisk::new(96).unwrap() else {
        return;
    };
    let store = open(&disk.path().join("store"));
    let (_first, _) = fill(&store, &pages(1, 1)).unwrap();
    disk.leave(24 << 20).unwrap();
    // Of 2 MiB each.
    let filled: Vec<_> = (10..20)
        .map(|seed| fill(&store, &pages(seed, 512)))
        .collect();
    let refused = filled.iter().filter_map(|filled| filled.as_ref().err());
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() < 8, "{refused:?}");
    for refused in refused {
        assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
    }
    assert!(disk.free_bytes().unwrap() > KEPT - (1 << 20));
    drop(filled);
    // What is not written yet is another's all the same.
    let appender = &mut store.joining().appender;
    let promise = appender.promise(disk.free_bytes().unwrap() - KEPT);
    let promise = promise.unwrap();
    assert!(appender.promise(PAGE_SIZE).is_err());
    drop(promise);
    assert!(appender.promise(PAGE_SIZE).is_ok());
}

#[test]
fn what_a_kill_leaves_of_commits_is_given_back_when_the_disk_is_nearly_full() {
    let Some(disk) = SmallDisk::new(128).unwrap() else {
        return;
    };
    let path = disk.path().join("store");
    let store = open(&path);
    let leftover = pages(1, 20 << 8);
    let kill = |at: Location, nth: u64| {
        let segment = path.join(format!("segments/{}.seg", at.segment));
        let segment = OpenOptions::new().write(true).open(segment).unwrap();
        segment.write_all_at(&leftover, nth * PAGE_SIZE).unwrap();
        disk.leave(10 << 20).unwrap();
    };
    // In a segment of which nothing is on record.
    let (given_up, at) = fill(&store, &pages(2, 1)).unwrap();
    drop(given_up);
    kill(at, 0);
    let (mut prepared, kept) = fill(&store, &pages(3, 1)).unwrap();
    let place = join(&store, &mut prepared);
    store.groups.wait(&store.view.index, &place).unwrap();
    drop(prepared);
    // And behind what is.
    kill(kept, 100);
    let (_last, at) = fill(&store, &pages(4, 1)).unwrap();
    assert!(is_there(&store, at, &pages(4, 1)) && is_there(&store, kept, &pages(3, 1)));
}

/// Somebody may have put an older index there, or another file in the segment's place.
#[test]
fn an_opening_leaves_what_is_behind_the_used_slots() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (mut prepared, kept) = fill(&store, &pages(1, 3)).unwrap();
    let place = join(&store, &mut prepared);
    store.groups.wait(&store.view.index, &place).unwrap();
    drop(prepared);
    let behind = Location {
        slot: Slot(kept.slot.0 + 3),
        ..kept
    };
    let file = store.view.backend.open(kept.segment, true).unwrap();
    let offset = behind.slot.byte_offset();
    file.write_all_at(&pages(2, 5), offset).unwrap();
    drop((file, store));
    let store = open(directory.path());
    assert!(is_there(&store, behind, &pages(2, 5)));
}

#[test]
fn a_commit_under_way_leaves_what_it_was_handed_before_the_index_was_found_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (mut kept, _) = fill(&store, &pages(1, 1)).unwrap();
    let place = join(&store, &mut kept);
    store.groups.wait(&store.view.index, &place).unwrap();
    drop(kept);
    let (under_way, at) = fill(&store, &pages(2, 3)).unwrap();
    let (other, other_at) = fill(&store, &pages(3, 3)).unwrap();
    crate::distrust::note(directory.path()).unwrap();
    let (mut next, elsewhere) = fill(&store, &pages(4, 1)).unwrap();
    assert_eq!(at.segment, other_at.segment);
    assert_ne!(elsewhere.segment, at.segment);
    assert!(under_way.is_spoilt() && other.is_spoilt() && !next.is_spoilt());
    // The slots may have been the journal's, of which something may be left.
    drop(under_way);
    assert!(is_there(&store, at, &pages(2, 3)));
    let place = join(&store, &mut next);
    store.groups.wait(&store.view.index, &place).unwrap();
    drop(next);
    drop(other);
    assert!(is_there(&store, other_at, &pages(3, 3)));
    crate::distrust::clear(directory.path()).unwrap();
    let (last, at) = fill(&store, &pages(5, 1)).unwrap();
    assert_eq!(at.segment, elsewhere.segment);
    assert!(at.slot > elsewhere.slot);
    drop(last);
}
