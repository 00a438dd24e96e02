//! Segments that lie elsewhere, as on a disk of their own: whose they are, and who writes to them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use closed::{assert_whole, copy, example, gone, listing, places, refused, reopen};
use common::{content, open, push_library, read_object};
use pool_core::ObjectId;
use pool_store::placement::Placement;
use pool_store::repair::repair;
use pool_store::{Store, StoreError, StoreOptions, StoreView};

/// Puts something in the place of a part.
type Put = fn(&Path);

/// Moves a store's segments to another place, and has a link lead there.
fn move_segments(store: &Path, to: &Path) {
    fs::rename(store.join("segments"), to).unwrap();
    symlink(to, store.join("segments")).unwrap();
}

fn push(store: &Store, name: &str) {
    push_library(store, name, &content(77, 30), Placement::Sparse).unwrap();
}

#[test]
fn segments_of_another_store_are_left_alone() {
    let path = places();
    for name in ["one", "other"] {
        example(&path(name));
        move_segments(&path(name), &path(&format!("{name}'s segments")));
    }
    let segments = path("other's segments");
    let others = listing(&segments);
    fs::remove_file(path("one/segments")).unwrap();
    symlink(&segments, path("one/segments")).unwrap();
    let said = refused(&path("one"));
    assert!(said.contains("its segments are another store's"), "{said}");
    let said = StoreView::follow(&path("one"), &path("notes")).unwrap_err();
    assert!(said.to_string().contains("another store's"), "{said}");
    let said = repair(&path("one"), false, &mut |_| ()).unwrap_err();
    assert!(said.to_string().contains("another store's"), "{said}");
    assert_eq!(listing(&segments), others);
    assert_whole(&reopen(&path("other")).unwrap());
    fs::remove_file(path("one/segments")).unwrap();
    symlink(path("one's segments"), path("one/segments")).unwrap();
    assert_whole(&reopen(&path("one")).unwrap());
}

#[test]
fn a_copy_that_shares_its_segments_is_not_written_to_at_the_same_time() {
    let path = places();
    example(&path("store"));
    move_segments(&path("store"), &path("segments"));
    copy(&path("store"), &path("copy"));
    assert!(path("copy/segments").is_symlink());
    let store = reopen(&path("store")).unwrap();
    match Store::open(&path("copy"), StoreOptions::default()) {
        Err(StoreError::Locked { path: locked }) => assert_eq!(locked, path("copy/segments")),
        other => panic!("{other:?}"),
    }
    push(&store, "more@1");
    assert_whole(&store);
}

#[test]
fn segments_from_before_there_was_a_note_get_one() {
    let path = places();
    example(&path("store"));
    let note = path("store/segments/owner");
    let said = fs::read(&note).unwrap();
    gone(&note);
    assert_whole(&reopen(&path("store")).unwrap());
    assert_eq!(fs::read(&note).unwrap(), said);
    // One that the disk has changed is nobody's.
    fs::write(&note, [&said[..7], b"x", &said[8..]].concat()).unwrap();
    assert_whole(&reopen(&path("store")).unwrap());
    assert_eq!(fs::read(&note).unwrap(), said);
}

#[test]
fn what_is_in_the_way_of_a_part_is_named_and_not_waited_for() {
    let path = places();
    example(&path("store"));
    let whole = listing(&path("store"));
    let fifo = |at: &Path| assert!(Command::new("mkfifo").arg(at).status().unwrap().success());
    let cases: [(&str, &str, Put); 2] = [
        ("staging", "its staging is not a directory", |at| {
            gone(at);
            fs::write(at, "").unwrap();
        }),
        ("restoring", "its restoring is not a file", |at| {
            fs::create_dir(at).unwrap();
        }),
    ];
    for (part, words, put) in cases {
        copy(&path("store"), &path("spoilt"));
        let at = path("spoilt").join(part);
        put(&at);
        let said = refused(&path("spoilt"));
        assert!(said.contains(words), "{part}: {said}");
        gone(&path("spoilt"));
    }
    copy(&path("store"), &path("spoilt"));
    gone(&path("spoilt/leases"));
    fifo(&path("spoilt/leases"));
    for said in [
        reopen(&path("spoilt")).unwrap_err(),
        StoreView::follow(&path("spoilt"), &path("notes")).unwrap_err(),
        pool_store::holders::holders(&path("spoilt")).unwrap_err(),
    ] {
        let said = said.to_string();
        assert!(said.contains("it is not a file: move it away"), "{said}");
    }
    gone(&path("spoilt"));
    // Where a repair notes that it has begun.
    copy(&path("store"), &path("spoilt"));
    fifo(&path("spoilt/repairing"));
    gone(&path("spoilt/index"));
    assert!(repair(&path("spoilt"), false, &mut |_| ()).unwrap().done);
    assert_whole(&reopen(&path("spoilt")).unwrap());
    assert_eq!(listing(&path("store")), whole);
}

#[test]
fn a_segment_that_is_gone_for_good_takes_nothing_else_with_it() {
    let path = places();
    example(&path("store"));
    let mut segments: Vec<_> = fs::read_dir(path("store/segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    segments.sort();
    gone(&segments[0]);
    let said = refused(&path("store"));
    let advice = said.split_once("truncate -s ").expect(&said).1;
    let (bytes, rest) = advice.split_once(' ').unwrap();
    assert!(rest.starts_with("segments/00000000.seg has"), "{said}");
    let left = repair(&path("store"), true, &mut |_| ()).unwrap().left;
    assert!(
        left.iter().any(|left| left.contains("truncate -s")),
        "{left:?}"
    );
    let file = fs::File::create(&segments[0]).unwrap();
    file.set_len(bytes.parse().unwrap()).unwrap();
    let store = open(&path("store"));
    let stored =
        |nth| read_object(&store, ObjectId::of(&closed::library(nth))) == closed::library(nth);
    let (kept, lost): (Vec<_>, Vec<_>) = (0..closed::PUSHED).partition(|nth| stored(*nth));
    assert!(!kept.is_empty() && !lost.is_empty(), "{kept:?} {lost:?}");
    let lost: Vec<_> = lost
        .into_iter()
        .map(|nth| ObjectId::of(&closed::library(nth)))
        .collect();
    assert!(store.note_damaged(&lost).unwrap() > 0);
    // What was in it is asked for again.
    for nth in 0..closed::PUSHED {
        let placement = match nth % 2 {
            0 => Placement::Sparse,
            _ => Placement::Windows { phase: 0 },
        };
        push_library(
            &store,
            &format!("again{nth}@1"),
            &closed::library(nth),
            placement,
        )
        .unwrap();
    }
    assert_whole(&store);
}

#[test]
fn segments_that_were_exchanged_are_refused() {
    let path = places();
    example(&path("store"));
    let names = ["00000000", "00000001", "exchanged"];
    let [first, second, third] = names.map(|name| path(&format!("store/segments/{name}.seg")));
    let exchange = || {
        fs::rename(&first, &third).unwrap();
        fs::rename(&second, &first).unwrap();
        fs::rename(&third, &second).unwrap();
    };
    exchange();
    let said = refused(&path("store"));
    assert!(said.contains("says that it is segment 0000000"), "{said}");
    let said = StoreView::follow(&path("store"), &path("notes")).unwrap_err();
    assert!(
        said.to_string().contains("says that it is segment"),
        "{said}"
    );
    exchange();
    // A copy by who does not know of it.
    let bytes = fs::read(&first).unwrap();
    gone(&first);
    fs::write(&first, bytes).unwrap();
    assert_whole(&reopen(&path("store")).unwrap());
    // Which that opening has mended.
    exchange();
    let said = refused(&path("store"));
    assert!(said.contains("says that it is segment 0000000"), "{said}");
}
