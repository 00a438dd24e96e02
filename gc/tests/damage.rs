//! Damage done on purpose: fsck finds it, and a collection that cannot read on removes nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/closed/mod.rs"]
mod closed;
mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;

use closed::{copy, flip, gone, reopen, tamper};
use collecting::NOW;
use common::{content, image_ref, library_ref, open, push_image, push_library, reservation};
use pool_core::ObjectId;
use pool_gc::fsck::Problem;
use pool_gc::{FsckLevel, collect, fsck};
use pool_store::manifest::TokenScope;
use pool_store::placement::Placement;
use pool_store::{Store, StoreView};
use rocksdb::{DB, IteratorMode};

fn first_key(index: &DB, family: &str) -> Box<[u8]> {
    let family = index.cf_handle(family).unwrap();
    let mut entries = index.iterator_cf(family, IteratorMode::Start);
    entries.next().unwrap().unwrap().0
}

/// What is wrong but for the index as a whole: what was changed past the store differs from the journal, too.
fn problems(store: &StoreView, level: FsckLevel) -> Vec<Problem> {
    let mut found: Vec<_> = fsck(store, level)
        .findings
        .iter()
        .map(|finding| finding.problem)
        .filter(|problem| *problem != Problem::Index)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// A store with an image of one library, sparse and dense pages, and an unused library.
fn example(directory: &Path) -> Store {
    let store = open(directory);
    push_image(
        &store,
        "app:1",
        &content(1, 5),
        &[("lib@1", &content(2, 100))],
    )
    .unwrap();
    push_library(&store, "dead@1", &content(3, 5), Placement::Sparse).unwrap();
    assert_eq!(problems(&store, FsckLevel::Content), []);
    store
}

#[test]
fn a_flipped_bit_is_found_by_content_alone() {
    for dense in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = example(directory.path());
        let bytes = if dense {
            content(2, 100)
        } else {
            content(1, 5)
        };
        let record = store.object(ObjectId::of(&bytes)).unwrap().unwrap();
        let extent = record.map.extents()[0];
        let path = directory
            .path()
            .join(format!("segments/{}.seg", extent.segment));
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(b"spoilt", extent.slot.byte_offset())
            .unwrap();
        assert_eq!(problems(&store, FsckLevel::Index), []);
        let mut expected = vec![Problem::PageContent, Problem::ObjectContent];
        if dense {
            expected.insert(1, Problem::WindowContent);
        }
        assert_eq!(problems(&store, FsckLevel::Content), expected);
    }
}

#[test]
fn what_the_last_page_has_past_the_end_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = &content(1, 2)[..5000];
    push_library(&store, "a@1", bytes, Placement::Sparse).unwrap();
    assert_eq!(problems(&store, FsckLevel::Content), []);
    let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
    let extent = record.map.extents()[0];
    let path = format!("segments/{}.seg", extent.segment);
    let path = directory.path().join(path);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"spoilt", extent.slot.byte_offset() + 5000)
        .unwrap();
    let expected = [Problem::PageContent, Problem::ObjectContent];
    assert_eq!(problems(&store, FsckLevel::Content), expected);
}

#[test]
fn a_window_that_begins_at_the_last_slot_there_can_be_goes_with_a_collection() {
    let directory = tempfile::tempdir().unwrap();
    drop(example(directory.path()));
    tamper(directory.path(), |index| {
        let key = first_key(index, "windows");
        let family = index.cf_handle("windows").unwrap();
        index.put_cf(family, key, [0xff; 8]).unwrap();
    });
    let store = open(directory.path());
    assert_eq!(problems(&store, FsckLevel::Index), [Problem::Outside]);
    assert_eq!(collect(&store, &NOW).unwrap().windows, 1);
    assert_eq!(problems(&store, FsckLevel::Content), []);
}

#[test]
fn missing_short_and_leaked_files_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = example(directory.path());
    let segments = directory.path().join("segments");
    std::fs::write(segments.join("000000ff.seg"), b"").unwrap();
    assert_eq!(problems(&store, FsckLevel::Index), [Problem::LeakedFile]);
    assert!(fsck(&store, FsckLevel::Index).is_sound());
    let file = std::fs::File::options();
    let short = file
        .clone()
        .write(true)
        .open(segments.join("00000000.seg"))
        .unwrap();
    short.set_len(4096).unwrap();
    std::fs::remove_file(segments.join("00000001.seg")).unwrap();
    let found = problems(&store, FsckLevel::Index);
    assert_eq!(
        found,
        [Problem::MissingFile, Problem::FileSize, Problem::LeakedFile]
    );
    assert!(!fsck(&store, FsckLevel::Index).is_sound());
}

#[test]
fn a_record_that_cannot_be_read_ends_a_collection_before_it_removes_anything() {
    for family in [
        "manifests",
        "libraries",
        "objects",
        "segments",
        "references",
    ] {
        let directory = tempfile::tempdir().unwrap();
        drop(example(directory.path()));
        let options = pool_store::StoreOptions::default();
        tamper(directory.path(), |index| {
            let handle = index.cf_handle(family).unwrap();
            if family == "references" {
                index.put_cf(handle, [2u8, b'l'], b"").unwrap();
                let key = [b"\x02lib@1\0".as_slice(), &[0; 5]].concat();
                index.put_cf(handle, key, b"").unwrap();
            } else {
                index
                    .put_cf(handle, first_key(index, family), b"{spoilt")
                    .unwrap();
            }
        });
        if family == "segments" {
            assert!(Store::open(directory.path(), options).is_err());
            continue;
        }
        let store = Store::open(directory.path(), options).unwrap();
        let pages = count_pages(&store);
        if family == "references" {
            // Only asked about libraries that no record calls used.
            store.delete_image(&image_ref("app:1")).unwrap_err();
        } else {
            collect(&store, &NOW).unwrap_err();
        }
        assert_eq!(count_pages(&store), pages, "{family}");
        assert!(
            problems(&store, FsckLevel::Index).contains(&Problem::Unreadable),
            "{family}"
        );
    }
}

#[test]
fn a_spoilt_record_of_any_family_is_found() {
    // Segments are looked at when a store is opened, and references have no values.
    for family in [
        "meta",
        "pages",
        "windows",
        "objects",
        "libraries",
        "tags",
        "manifests",
        "registry",
        "tokens",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = example(directory.path());
        let request = reservation("lib@1", b"members");
        store.reserve_addresses(&[request]).unwrap().unwrap();
        let secret = ObjectId::of(b"secret");
        store.add_token("ci", secret, TokenScope::Read).unwrap();
        assert_eq!(problems(&store, FsckLevel::Index), []);
        drop(store);
        tamper(directory.path(), |index| {
            let key = match family {
                "meta" => (*b"epoch").into(),
                _ => first_key(index, family),
            };
            let family = index.cf_handle(family).unwrap();
            index.put_cf(family, key, b"{spoilt").unwrap();
        });
        let found = problems(&open(directory.path()), FsckLevel::Index);
        assert!(found.contains(&Problem::Unreadable), "{family}: {found:?}");
    }
}

#[test]
fn a_spoilt_record_hides_none_of_the_others() {
    for (family, expected) in [
        ("pages", vec![Problem::Unreadable]),
        ("windows", vec![Problem::Unreadable]),
        // The one name whose object it is.
        ("objects", vec![Problem::Unreadable, Problem::MissingObject]),
        ("libraries", vec![Problem::Unreadable]),
        ("tags", vec![Problem::Unreadable, Problem::Reference]),
        ("tokens", vec![Problem::Unreadable]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let windows = Placement::Windows { phase: 0 };
        for nth in 0..5u64 {
            let name = format!("l{nth}@1");
            push_library(&store, &name, &content(nth, 40), windows).unwrap();
            // The same file in all, under five names.
            push_image(&store, &format!("app:{nth}"), &content(0, 40), &[]).unwrap();
            let secret = ObjectId::of(b"secret");
            let token = format!("t{nth}");
            store.add_token(&token, secret, TokenScope::Read).unwrap();
        }
        assert_eq!(problems(&store, FsckLevel::Content), []);
        drop(store);
        let mut name = String::new();
        tamper(directory.path(), |index| {
            let handle = index.cf_handle(family).unwrap();
            let key = match family {
                // The first of those that have one name alone.
                "objects" => {
                    let objects = (1..5).map(|nth| ObjectId::of(&content(nth, 40)));
                    objects.min().unwrap().0.into()
                }
                _ => first_key(index, family),
            };
            index.put_cf(handle, &key, b"{spoilt").unwrap();
            name = String::from_utf8_lossy(&key).into_owned();
        });
        let report = fsck(&open(directory.path()), FsckLevel::Content);
        let findings = report.findings.iter();
        let findings: Vec<_> = findings
            .filter(|found| found.problem != Problem::Index)
            .collect();
        let found: Vec<_> = findings.iter().map(|found| found.problem).collect();
        assert_eq!(found, expected, "{family}: {report:#?}");
        let what = &findings[0].what;
        let is_named = ["libraries", "tags", "tokens"].contains(&family);
        assert!(!is_named || what.contains(&name), "{what}");
    }
}

#[test]
fn a_table_that_cannot_be_read_makes_nothing_else_missing() {
    let root = tempfile::tempdir().unwrap();
    let (whole, spoilt) = (root.path().join("whole"), root.path().join("spoilt"));
    drop(example(&whole));
    // An opening makes tables of the log of the one before, one for each kind of records.
    drop(open(&whole));
    let files = std::fs::read_dir(whole.join("index")).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    let tables = names.filter(|name| Path::new(name).extension().is_some_and(|end| end == "sst"));
    let mut found_in = 0;
    for table in tables {
        copy(&whole, &spoilt);
        flip(&spoilt.join("index").join(&table), 8 * 20);
        // Some are looked at when a store is opened.
        if let Ok(store) = reopen(&spoilt) {
            let found = problems(&store, FsckLevel::Index);
            assert_eq!(found, [Problem::Unreadable], "{}", table.display());
            found_in += 1;
        }
        gone(&spoilt);
    }
    // Pages, windows, objects, libraries, tags, manifests and references.
    assert!(found_in >= 7, "{found_in}");
}

/// No store is opened with one, so only a check of a store that is open already comes to it.
#[test]
fn a_segment_record_that_cannot_be_read_is_found_with_all_else() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = example(directory.path());
    let follower = StoreView::follow(directory.path(), &scratch.path().join("f")).unwrap();
    push_library(&store, "late@1", &content(4, 5), Placement::Sparse).unwrap();
    let objects = fsck(&store, FsckLevel::Index).objects;
    drop(store);
    tamper(directory.path(), |index| {
        for family in ["segments", "libraries"] {
            let key = first_key(index, family);
            let family = index.cf_handle(family).unwrap();
            index.put_cf(family, key, b"{spoilt").unwrap();
        }
    });
    follower.refresh().unwrap();
    let report = fsck(&follower, FsckLevel::Content);
    assert_eq!((report.objects, report.segments), (objects, 2));
    let says = |what: &str| {
        let mut findings = report.findings.iter();
        findings
            .any(|finding| finding.problem == Problem::Unreadable && finding.what.contains(what))
    };
    assert!(
        says("the record of segment 00000000") && says("a record of libraries"),
        "{report:#?}"
    );
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.problem != Problem::LeakedFile),
        "{report:#?}"
    );
}

fn count_pages(store: &StoreView) -> usize {
    let mut pages = 0;
    store
        .snapshot()
        .for_each_page(|_, _| {
            pages += 1;
            Ok(())
        })
        .unwrap();
    pages
}

#[test]
fn a_named_object_that_is_gone_stops_a_collection() {
    let directory = tempfile::tempdir().unwrap();
    drop(example(directory.path()));
    tamper(directory.path(), |index| {
        let objects = index.cf_handle("objects").unwrap();
        index
            .delete_cf(objects, ObjectId::of(&content(2, 100)).0)
            .unwrap();
    });
    let store = open(directory.path());
    let pages = count_pages(&store);
    assert!(collect(&store, &NOW).is_err());
    assert_eq!(count_pages(&store), pages);
    assert!(store.library(&library_ref("dead@1")).unwrap().is_some());
    assert_eq!(problems(&store, FsckLevel::Index), [Problem::MissingObject]);
}

#[test]
fn references_that_disagree_are_found() {
    type Change = fn(&DB);
    let cases: [(Change, &[Problem]); 4] = [
        (
            |index| {
                let key = first_key(index, "tags");
                index
                    .delete_cf(index.cf_handle("tags").unwrap(), key)
                    .unwrap();
            },
            &[Problem::Tag, Problem::Reference],
        ),
        (
            |index| {
                let key = first_key(index, "references");
                index
                    .delete_cf(index.cf_handle("references").unwrap(), key)
                    .unwrap();
            },
            &[Problem::Reference],
        ),
        (
            |index| {
                let key = first_key(index, "manifests");
                index
                    .delete_cf(index.cf_handle("manifests").unwrap(), key)
                    .unwrap();
            },
            &[Problem::Tag, Problem::Reference, Problem::UnusedSince],
        ),
        (
            |index| {
                let family = index.cf_handle("libraries").unwrap();
                index.delete_cf(family, b"lib@1").unwrap();
            },
            &[Problem::Reference],
        ),
    ];
    for (nth, (change, expected)) in cases.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        drop(example(directory.path()));
        tamper(directory.path(), change);
        let store = open(directory.path());
        assert_eq!(problems(&store, FsckLevel::Index), expected, "case {nth}");
    }
}
