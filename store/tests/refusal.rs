//! A store whose index or segments are not what they were is refused, and nothing is changed: with
//! the right files back, everything acknowledged is there.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use closed::{
    assert_whole, copy, cut, example, flip, gone, listing, newest, places, refused, reopen, told,
};
use common::{assert_stored, open, push_library};
use pool_store::placement::Placement;
use pool_store::{Store, StoreOptions, StoreView};

/// What is done to a store, and what the refusal says.
type Case = (&'static str, fn(&Path, &Path), &'static str);

/// Each is given the store and an older index of it.
const CASES: &[Case] = &[
    (
        "index absent",
        |s, _| gone(&s.join("index")),
        "is not there",
    ),
    (
        "index empty",
        |s, _| {
            gone(&s.join("index"));
            fs::create_dir(s.join("index")).unwrap();
        },
        "no file CURRENT",
    ),
    (
        "index a file",
        |s, _| {
            gone(&s.join("index"));
            fs::write(s.join("index"), b"x").unwrap();
        },
        "not a directory",
    ),
    (
        "index a dangling link",
        |s, _| {
            gone(&s.join("index"));
            symlink("/nowhere", s.join("index")).unwrap();
        },
        "is not there",
    ),
    (
        "index without CURRENT",
        |s, _| gone(&s.join("index/CURRENT")),
        "no file CURRENT",
    ),
    (
        "CURRENT spoilt",
        |s, _| fs::write(s.join("index/CURRENT"), b"MANIFEST-999999\n").unwrap(),
        "cannot be read",
    ),
    (
        "CURRENT cut",
        |s, _| fs::write(s.join("index/CURRENT"), b"").unwrap(),
        "cannot be read",
    ),
    (
        "list of tables spoilt",
        |s, _| flip(&newest(s, "MANIFEST"), 8 * 200),
        "cannot be read",
    ),
    (
        "list of tables cut",
        |s, _| cut(&newest(s, "MANIFEST")),
        "cannot be read",
    ),
    (
        "table absent",
        |s, _| gone(&newest(s, ".sst")),
        "cannot be read",
    ),
    (
        "table cut",
        |s, _| cut(&newest(s, ".sst")),
        "cannot be read",
    ),
    (
        "mark absent",
        |s, _| gone(&s.join("generation")),
        "an older copy will do",
    ),
    (
        "mark cut",
        |s, _| fs::write(s.join("generation"), b"1234567").unwrap(),
        "an older copy will do",
    ),
    (
        "segment absent",
        |s, _| gone(&s.join("segments/00000000.seg")),
        "segment 00000000 has no file",
    ),
    (
        "segment short",
        |s, _| cut(&s.join("segments/00000001.seg")),
        "segment 00000001 has 2097152 bytes",
    ),
    (
        "segment a directory",
        |s, _| {
            gone(&s.join("segments/00000001.seg"));
            fs::create_dir(s.join("segments/00000001.seg")).unwrap();
        },
        "not a file",
    ),
    (
        "segments absent",
        |s, _| gone(&s.join("segments")),
        "not to be found",
    ),
    (
        "superblock absent",
        |s, _| gone(&s.join("superblock")),
        "superblock is missing",
    ),
    (
        "superblock empty",
        |s, _| fs::write(s.join("superblock"), b"").unwrap(),
        "from a copy of this directory",
    ),
    (
        "superblock zeroed",
        |s, _| fs::write(s.join("superblock"), [0; 128]).unwrap(),
        "from a copy of this directory",
    ),
];

/// What is done to a store, which is given with an older index of it.
type Older = (&'static str, fn(&Path, &Path));

/// What leaves an index that is older than the journal: a reader refuses it, and an opening for writing brings it up.
const OLDER: &[Older] = &[
    ("index older", |s, old| {
        gone(&s.join("index"));
        copy(old, &s.join("index"));
    }),
    ("log absent", |s, _| gone(&newest(s, ".log"))),
    ("log empty", |s, _| {
        fs::write(newest(s, ".log"), b"").unwrap();
    }),
    ("log cut", |s, _| cut(&newest(s, ".log"))),
];

/// A store `whole`, closed, and an index `old-index` that lacks its last commit. Answers with what is in the store.
fn with_older_index(path: impl Fn(&str) -> PathBuf) -> String {
    example(&path("whole"));
    let store = open(&path("whole"));
    copy(&path("whole/index"), &path("old-index"));
    push_library(&store, "newest@1", b"newest", Placement::Sparse).unwrap();
    told(&store)
}

#[test]
fn an_index_that_lost_commits_is_brought_up_by_the_writer_alone() {
    let path = places();
    let whole = with_older_index(&path);
    for (what, spoil) in OLDER {
        copy(&path("whole"), &path("store"));
        spoil(&path("store"), &path("old-index"));
        let spoilt = listing(&path("store"));
        let followed = StoreView::follow(&path("store"), &path("scratch")).map(drop);
        let said = followed.unwrap_err().to_string();
        assert!(said.contains("pool repair"), "{what}: {said}");
        assert_eq!(listing(&path("store")), spoilt, "{what}");
        assert_eq!(told(&reopen(&path("store")).unwrap()), whole, "{what}");
        let followed = StoreView::follow(&path("store"), &path("scratch")).unwrap();
        assert_eq!(told(&followed), whole, "{what}");
        drop(followed);
        gone(&path("store"));
    }
}

#[test]
fn what_does_not_belong_together_is_refused_and_left_as_it_is() {
    let path = places();
    with_older_index(&path);
    for (what, spoil, words) in CASES {
        copy(&path("whole"), &path("store"));
        spoil(&path("store"), &path("old-index"));
        let spoilt = listing(&path("store"));
        let said = refused(&path("store"));
        assert!(said.contains(words), "{what}: {said}");
        let create = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        assert!(Store::open(&path("store"), create).is_err(), "{what}");
        assert_eq!(listing(&path("store")), spoilt, "{what}");
        // A reader needs the index, and looks for segments when it reads them.
        if !what.starts_with("segment") {
            let followed = StoreView::follow(&path("store"), &path("scratch"));
            assert!(followed.is_err(), "{what}");
            assert_eq!(listing(&path("store")), spoilt, "{what}");
        }
        for part in fs::read_dir(path("whole")).unwrap() {
            let part = part.unwrap().file_name();
            if fs::symlink_metadata(path("store").join(&part)).is_ok() {
                gone(&path("store").join(&part));
            }
            copy(&path("whole").join(&part), &path("store").join(&part));
        }
        let store = reopen(&path("store")).unwrap();
        assert_whole(&store);
        assert_stored(&store, b"newest");
        drop(store);
        gone(&path("store"));
    }
}

#[test]
fn the_index_of_another_store_is_refused() {
    let path = places();
    example(&path("store"));
    example(&path("other"));
    gone(&path("store/index"));
    copy(&path("other/index"), &path("store/index"));
    assert!(refused(&path("store")).contains("another store"));
    let followed = StoreView::follow(&path("store"), &path("scratch"));
    assert!(followed.unwrap_err().to_string().contains("another store"));
}

#[test]
fn an_index_elsewhere_behind_a_link_is_as_good() {
    let path = places();
    example(&path("store"));
    fs::rename(path("store/index"), path("moved")).unwrap();
    symlink("../moved", path("store/index")).unwrap();
    assert_whole(&reopen(&path("store")).unwrap());
}
