//! The journal: what an index lacks is taken from there, and what is damaged of it is no tail.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;
mod failing;

use std::fs;
use std::os::unix::fs::symlink;

use closed::{
    add_token, assert_told, copy, example, flip, gone, journal_files, listing, newest_log, places,
    put_index, refused, reopen, told,
};
use common::{assert_stored, content, library_ref, open, push_library, reservation};
use failing::while_failing;
use pool_store::placement::Placement;
use pool_store::superblock::FEATURE_JOURNAL;
use pool_store::{Store, StoreError};
use pool_tests::disk::SmallDisk;

fn push(store: &Store, name: &str, seed: u64, pages: usize) {
    push_library(store, name, &content(seed, pages), Placement::Sparse).unwrap();
}

#[test]
fn an_older_index_is_brought_up_however_many_commits_it_lacks() {
    let path = places();
    example(&path("store"));
    for commits in [1, 2, 40] {
        copy(&path("store/index"), &path("old"));
        let store = open(&path("store"));
        for nth in 0..commits {
            let name = format!("l{commits}-{nth}@1");
            match nth % 4 {
                0 => push(&store, &name, commits * 100 + nth, 30),
                1 => add_token(&store, &format!("t{commits}-{nth}")).unwrap(),
                2 => {
                    let request = reservation(&format!("r{commits}-{nth}@1"), name.as_bytes());
                    store.reserve_addresses(&[request]).unwrap().unwrap();
                }
                _ => {
                    let gone = library_ref(&format!("l{commits}-{}@1", nth - 3));
                    store.delete_library(&gone).unwrap();
                }
            }
        }
        let whole = told(&store);
        let generation = store.generation().unwrap();
        drop(store);
        put_index(&path("store"), &path("old"));
        gone(&path("old"));
        for _ in 0..2 {
            let store = reopen(&path("store")).unwrap();
            assert_eq!(told(&store), whole, "{commits}");
            assert_eq!(store.generation().unwrap(), generation);
        }
    }
}

#[test]
fn an_index_that_lacks_more_than_is_kept_in_memory_is_brought_up() {
    let path = places();
    example(&path("store"));
    copy(&path("store/index"), &path("old"));
    let store = open(&path("store"));
    for nth in 0..10 {
        add_token(&store, &format!("{nth}{}", "x".repeat(2 << 20))).unwrap();
    }
    push(&store, "last@1", 7, 30);
    let whole = told(&store);
    drop(store);
    put_index(&path("store"), &path("old"));
    for _ in 0..2 {
        assert!(told(&reopen(&path("store")).unwrap()) == whole);
    }
}

#[test]
fn an_index_from_before_the_journal_is_refused() {
    let path = places();
    example(&path("store"));
    copy(&path("store/index"), &path("old"));
    let store = open(&path("store"));
    push(&store, "a@1", 50, 3);
    // Of an open one, tables go while they are copied.
    drop(store);
    copy(&path("store/index"), &path("checkpointed"));
    let store = open(&path("store"));
    assert!(store.checkpoint().unwrap());
    push(&store, "b@1", 51, 3);
    let whole = told(&store);
    drop(store);
    put_index(&path("store"), &path("old"));
    let said = refused(&path("store"));
    assert!(said.contains("pool repair --store"), "{said}");
    put_index(&path("store"), &path("checkpointed"));
    assert_told(&path("store"), &whole);
    assert_eq!(journal_files(&path("store"), "log").len(), 1);
    assert_eq!(journal_files(&path("store"), "checkpoint").len(), 1);
}

#[test]
fn a_frame_that_a_stop_left_unfinished_is_none_wherever_it_ends() {
    let path = places();
    let store = open(&path("store"));
    push(&store, "before@1", 1, 3);
    add_token(&store, "before").unwrap();
    let before = told(&store);
    drop(store);
    copy(&path("store/index"), &path("old"));
    let mark = fs::read(path("store/generation")).unwrap();
    let log = newest_log(&path("store"));
    let without = fs::read(&log).unwrap();
    let store = open(&path("store"));
    add_token(&store, "during").unwrap();
    let during = told(&store);
    drop(store);
    let whole = fs::read(&log).unwrap();
    let differ = |(one, other): (&u8, &u8)| one != other;
    let begin = without.iter().zip(&whole).position(differ).unwrap();
    let end = whole.len() - whole.iter().rev().position(|byte| *byte != 0).unwrap();
    assert!(end - begin > 100, "{begin} to {end}");
    put_index(&path("store"), &path("old"));
    fs::write(path("store/generation"), mark).unwrap();
    for cut in begin..end {
        // Cut there; zeros from there; a hole up to there.
        for shape in 0..3 {
            if shape > 0 && cut % 8 != 0 {
                continue;
            }
            let mut torn = whole.clone();
            match shape {
                0 => torn.truncate(cut),
                1 => torn[cut..].fill(0),
                _ => torn[begin..=cut].fill(0),
            }
            fs::write(&log, &torn).unwrap();
            let store = reopen(&path("store")).unwrap();
            assert!(told(&store) == before, "{shape} at {cut}");
        }
    }
    // Its digest may end with zeros.
    fs::write(&log, &whole[..end + 32]).unwrap();
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), during);
    add_token(&store, "after").unwrap();
    let after = told(&store);
    drop(store);
    assert_told(&path("store"), &after);
}

#[test]
fn damage_of_the_journal_is_refused_whatever_the_index_has() {
    let path = places();
    let store = open(&path("store"));
    for nth in 0..6 {
        add_token(&store, &format!("t{nth}")).unwrap();
    }
    drop(store);
    copy(&path("store/index"), &path("old"));
    let store = open(&path("store"));
    for nth in 6..12 {
        add_token(&store, &format!("t{nth}")).unwrap();
    }
    let whole = told(&store);
    drop(store);
    copy(&path("store/index"), &path("new"));
    let log = newest_log(&path("store"));
    let good = fs::read(&log).unwrap();
    let end = good.len() - good.iter().rev().position(|byte| *byte != 0).unwrap();
    let mut refusals = 0;
    for index in ["new", "old"] {
        put_index(&path("store"), &path(index));
        for bit in (0..end as u64 * 8).step_by(229) {
            flip(&log, bit);
            let said = refused(&path("store"));
            assert!(said.contains("journal"), "{index}, bit {bit}: {said}");
            fs::write(&log, &good).unwrap();
            refusals += 1;
        }
    }
    assert!(refusals > 50, "{refusals}");
    for part in [
        newest_log(&path("store")),
        journal_files(&path("store"), "checkpoint").remove(0),
        path("store/journal"),
    ] {
        fs::rename(&part, path("aside")).unwrap();
        let said = refused(&path("store"));
        assert!(said.contains("pool repair --store"), "{said}");
        fs::rename(path("aside"), &part).unwrap();
    }
    assert_told(&path("store"), &whole);
}

#[test]
fn an_index_of_another_copy_of_the_store_is_refused() {
    let path = places();
    example(&path("store"));
    copy(&path("store"), &path("twin"));
    for (store, token) in [("store", "mine"), ("twin", "theirs")] {
        add_token(&open(&path(store)), token).unwrap();
    }
    add_token(&open(&path("store")), "later").unwrap();
    put_index(&path("store"), &path("twin/index"));
    let said = refused(&path("store"));
    assert!(said.contains("belong together"), "{said}");
}

#[test]
fn a_directory_that_is_called_as_a_log_is_is_none() {
    let path = places();
    let store = open(&path("store"));
    for nth in 0..3 {
        push(&store, &format!("a{nth}@1"), 50 + nth, 3);
        assert!(store.checkpoint().unwrap());
    }
    push(&store, "b@1", 60, 3);
    let whole = told(&store);
    for name in ["0000000000000000.log", "0000000000000001.checkpoint"] {
        fs::create_dir(path("store/journal").join(name)).unwrap();
    }
    // Behind it the old ones go as ever.
    assert!(store.checkpoint().unwrap());
    let files = |end: &str| {
        let found = journal_files(&path("store"), end);
        found.into_iter().filter(|path| path.is_file()).count()
    };
    assert_eq!((files("log"), files("checkpoint")), (1, 1));
    drop(store);
    assert_told(&path("store"), &whole);
}

#[test]
fn the_journal_begins_with_the_first_opening_and_a_beginning_can_be_repeated() {
    let path = places();
    let options = common::options();
    Store::create(&path("store"), options).unwrap();
    assert!(!path("store/journal").exists());
    // What a stop left of it.
    fs::create_dir(path("store/journal.new")).unwrap();
    fs::write(
        path("store/journal.new/0000000000000000.checkpoint.new"),
        b"POOL",
    )
    .unwrap();
    let store = reopen(&path("store")).unwrap();
    assert!(!path("store/journal.new").exists());
    assert!(store.superblock().read_only_compatible & FEATURE_JOURNAL != 0);
    push(&store, "a@1", 1, 3);
    let whole = told(&store);
    drop(store);
    // Stopped before the superblock told of it.
    let superblock = path("store/superblock");
    let mut stopped =
        pool_store::superblock::Superblock::decode(&fs::read(&superblock).unwrap(), true).unwrap();
    stopped.read_only_compatible &= !FEATURE_JOURNAL;
    fs::write(&superblock, stopped.encode()).unwrap();
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), whole);
    assert!(store.superblock().read_only_compatible & FEATURE_JOURNAL != 0);
}

#[test]
fn a_journal_that_cannot_be_synced_takes_the_change_back() {
    let path = places();
    let store = open(&path("store"));
    add_token(&store, "before").unwrap();
    let before = told(&store);
    for reopened in [false, true] {
        let failed = while_failing(libc::SYS_fdatasync, libc::EIO, || {
            add_token(&store, "never")
        });
        let error = failed.unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        assert_eq!(told(&store), before);
        if reopened {
            break;
        }
        // As long as it cannot be taken back nothing else is done.
        let failed = while_failing(libc::SYS_fdatasync, libc::EIO, || {
            add_token(&store, "never")
        });
        assert!(failed.is_err());
        add_token(&store, "after").unwrap();
        store.delete_token("after").unwrap();
        assert_eq!(told(&store), before);
    }
    drop(store);
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), before);
    add_token(&store, "after").unwrap();
}

#[test]
fn what_the_index_refused_is_there_whole_at_the_next_opening_or_never() {
    let path = places();
    let store = open(&path("store"));
    // With a segment to append to: a new one is a change of its own, and refused first.
    push(&store, "before@1", 1, 3);
    // The index writes its log with write(2), the journal and segments are written with pwrite(2).
    let bytes = content(5, 20);
    let refused = while_failing(libc::SYS_write, libc::EDQUOT, || {
        push_library(&store, "doubtful@1", &bytes, Placement::Sparse).map(drop)
    });
    assert!(
        matches!(refused, Err(StoreError::NoSpace { .. })),
        "{refused:?}"
    );
    assert!(store.library(&library_ref("doubtful@1")).unwrap().is_none());
    drop(store);
    let store = reopen(&path("store")).unwrap();
    assert!(store.library(&library_ref("doubtful@1")).unwrap().is_some());
    assert_stored(&store, &bytes);
}

#[test]
fn a_full_journal_refuses_uploads_and_leaves_room_for_deletions() {
    let Some(disk) = SmallDisk::new(8).unwrap() else {
        return;
    };
    let path = places();
    drop(open(&path("store")));
    let moved = disk.path().join("journal");
    copy(&path("store/journal"), &moved);
    gone(&path("store/journal"));
    symlink(&moved, path("store/journal")).unwrap();
    let store = open(&path("store"));
    for nth in 0..20 {
        push(&store, &format!("l{nth}@1"), nth, 2);
    }
    disk.leave(0).unwrap();
    // Whatever is left of a step that was taken beforehand.
    let mut pushed = 20;
    let error = loop {
        let name = format!("l{pushed}@1");
        match push_library(&store, &name, &content(pushed, 200), Placement::Sparse) {
            Ok(_) => pushed += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    for nth in 0..pushed {
        store
            .delete_library(&library_ref(&format!("l{nth}@1")))
            .unwrap();
    }
    for nth in 0..1000 {
        add_token(&store, &format!("t{nth}")).unwrap();
    }
    let whole = told(&store);
    drop(store);
    disk.leave(4 << 20).unwrap();
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), whole);
    push(&store, "after@1", 9999, 30);
    assert_stored(&store, &content(9999, 30));
}

#[test]
fn a_store_whose_journal_cannot_be_begun_goes_on_without() {
    let path = places();
    Store::create(&path("store"), common::options()).unwrap();
    fs::write(path("store/journal.new"), b"in the way").unwrap();
    let store = reopen(&path("store")).unwrap();
    push(&store, "a@1", 1, 3);
    let whole = told(&store);
    drop(store);
    assert!(!path("store/journal").exists());
    copy(&path("store/index"), &path("old"));
    let store = reopen(&path("store")).unwrap();
    assert_eq!(store.superblock().read_only_compatible & FEATURE_JOURNAL, 0);
    assert_eq!(told(&store), whole);
    push(&store, "b@1", 2, 3);
    let whole = told(&store);
    drop(store);
    copy(&path("store/index"), &path("new"));
    put_index(&path("store"), &path("old"));
    assert!(refused(&path("store")).contains("an older one"));
    // A repair has nothing to make it anew from, and says so.
    let before = listing(&path("store"));
    let repaired = pool_store::repair::repair(&path("store"), false, &mut |_| ());
    let said = repaired.unwrap_err().to_string();
    assert!(
        said.contains("an older one") && said.contains("no journal yet"),
        "{said}"
    );
    assert_eq!(listing(&path("store")), before);
    put_index(&path("store"), &path("new"));
    fs::remove_file(path("store/journal.new")).unwrap();
    for _ in 0..2 {
        let store = reopen(&path("store")).unwrap();
        assert_ne!(store.superblock().read_only_compatible & FEATURE_JOURNAL, 0);
        assert_eq!(told(&store), whole);
    }
}

#[test]
fn a_log_whose_name_cannot_be_synced_is_the_one_that_goes_on() {
    let path = places();
    let store = open(&path("store"));
    add_token(&store, "before").unwrap();
    let failed = while_failing(libc::SYS_fsync, libc::EIO, || store.checkpoint());
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    // Nothing is in it before its name is safe.
    let before = told(&store);
    let failed = while_failing(libc::SYS_fsync, libc::EIO, || add_token(&store, "never"));
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    assert_eq!(told(&store), before);
    add_token(&store, "after").unwrap();
    let whole = told(&store);
    drop(store);
    assert_told(&path("store"), &whole);
}

#[test]
fn what_the_index_lacks_is_synced_before_the_index_gets_it() {
    let path = places();
    example(&path("store"));
    copy(&path("store/index"), &path("old"));
    let store = open(&path("store"));
    add_token(&store, "killed").unwrap();
    let whole = told(&store);
    drop(store);
    put_index(&path("store"), &path("old"));
    let before = listing(&path("store"));
    let failed = while_failing(libc::SYS_fdatasync, libc::EIO, || reopen(&path("store")));
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    assert_eq!(listing(&path("store")), before);
    // And written anew: of what was there a process that was killed may have been told that it did not get to the disk.
    let failed = while_failing(libc::SYS_pwrite64, libc::EIO, || reopen(&path("store")));
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    assert_eq!(listing(&path("store")), before);
    assert_told(&path("store"), &whole);
}

#[test]
fn a_pipe_in_the_journal_is_refused_and_not_waited_for() {
    let path = places();
    example(&path("whole"));
    for end in ["log", "checkpoint"] {
        copy(&path("whole"), &path("store"));
        let file = journal_files(&path("store"), end).remove(0);
        gone(&file);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &file, kind, mode, 0).unwrap();
        let error = reopen(&path("store")).unwrap_err();
        assert!(error.to_string().contains("not a file"), "{error}");
        gone(&path("store"));
    }
}
