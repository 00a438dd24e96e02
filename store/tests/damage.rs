//! Flipped bits, zeros and torn ends in the index and the mark: nothing is lost in silence, and what a
//! stop leaves is no damage.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use closed::{PUSHED, assert_whole, copy, example, flip, gone, listing, newest, reopen, try_copy};
use common::{assert_stored, content, library_ref, open, push_library};
use pool_store::placement::Placement;
use pool_store::{StoreError, StoreView};
use pool_tests::wait;

#[test]
fn no_flipped_bit_of_the_index_loses_anything_silently() {
    let flips: u64 = std::env::var("POOL_SOAK_FLIPS").map_or(24, |text| text.parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("whole"));
    copy(&path("whole"), &path("store"));
    let (mut refusals, mut found_later) = (0, 0);
    for end in [".log", "MANIFEST", ".sst", "OPTIONS", "CURRENT"] {
        let name = newest(&path("whole"), end);
        let bits = fs::metadata(&name).unwrap().len() * 8;
        for nth in 0..flips {
            // The last record is the one that tolerance of torn tails is about.
            let bit = match nth % 4 {
                0 => bits - 1 - (nth * 97) % bits.min(2400),
                _ => bits / flips * nth + nth % 8,
            };
            gone(&path("store/index"));
            copy(&path("whole/index"), &path("store/index"));
            copy(&path("whole/generation"), &path("store"));
            flip(&path("store/index").join(name.file_name().unwrap()), bit);
            let before = listing(&path("store"));
            match reopen(&path("store")) {
                Err(error) => {
                    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
                    assert_eq!(listing(&path("store")), before, "{end} bit {bit}: {error}");
                    refusals += 1;
                }
                // A block of a table is checked when it is read.
                Ok(store) => match (0..PUSHED).try_for_each(|nth| {
                    let name = library_ref(&format!("l{nth}@1"));
                    let record = store.library(&name)?;
                    assert!(record.is_some(), "{end} bit {bit}: {name} is lost");
                    let object = store.object(record.unwrap().object)?;
                    assert!(object.is_some(), "{end} bit {bit}: {name} has no object");
                    Ok::<_, StoreError>(())
                }) {
                    Ok(()) => {}
                    Err(StoreError::Index { .. }) => found_later += 1,
                    Err(other) => panic!("{end} bit {bit}: {other}"),
                },
            }
        }
    }
    assert!(
        refusals > flips,
        "{refusals} refused, {found_later} found later"
    );
}

#[test]
fn a_flipped_bit_of_the_mark_is_brought_right_or_refused_with_a_way_out() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("store"));
    let mark = path("store/generation");
    let good = fs::read(&mark).unwrap();
    let mut refusals = 0;
    for bit in 0..64 {
        flip(&mark, bit);
        let spoilt = fs::read(&mark).unwrap();
        match reopen(&path("store")) {
            Ok(store) => assert_whole(&store),
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("8 zero bytes"), "bit {bit}: {said}");
                assert_eq!(fs::read(&mark).unwrap(), spoilt);
                fs::write(&mark, [0; 8]).unwrap();
                assert_whole(&reopen(&path("store")).unwrap());
                refusals += 1;
            }
        }
        assert_eq!(fs::read(&mark).unwrap(), good, "bit {bit}");
    }
    assert!(refusals > 50, "{refusals}");
}

#[test]
fn zeros_in_the_middle_of_the_log_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    {
        let store = open(&path("whole"));
        for nth in 0..200 {
            let scope = pool_store::manifest::TokenScope::Read;
            let secret = pool_core::ObjectId::of(b"secret");
            store.add_token(&format!("t{nth}"), secret, scope).unwrap();
        }
    }
    copy(&path("whole"), &path("store"));
    let log = newest(&path("whole"), ".log");
    let length = fs::metadata(&log).unwrap().len();
    assert!(length > 3 * 4096, "{length}");
    for from in (0..length - 4096).step_by(1000) {
        gone(&path("store/index"));
        copy(&path("whole/index"), &path("store/index"));
        let spoilt = path("store/index").join(log.file_name().unwrap());
        let file = File::options().write(true).open(spoilt).unwrap();
        file.write_all_at(&[0; 4096], from).unwrap();
        // A reader sees that something is missing, and a writer has it from the journal.
        assert!(
            StoreView::follow(&path("store"), &path("scratch")).is_err(),
            "{from}"
        );
        assert_eq!(reopen(&path("store")).unwrap().tokens().unwrap().len(), 200);
    }
}

/// Copies a store that is open, and does so again if RocksDB has merged tables, or taken some away, meanwhile.
fn copy_running(from: &Path, to: &Path) {
    // Files of an index are added, taken away or become longer.
    let index = || -> BTreeMap<OsString, u64> {
        let entries = fs::read_dir(from.join("index")).unwrap();
        let lengths = entries.filter_map(|entry| {
            let entry = entry.unwrap();
            // One may go between the two.
            Some((entry.file_name(), entry.metadata().ok()?.len()))
        });
        // What RocksDB says to people is no part of it.
        lengths.filter(|(name, _)| name != "LOG").collect()
    };
    wait::until("its files stay as they are", || {
        let before = index();
        let is_copied = try_copy(from, to);
        let is_whole = is_copied && index() == before;
        if !is_whole {
            gone(to);
        }
        is_whole
    });
}

#[test]
fn what_a_stop_leaves_of_an_unanswered_commit_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("running"));
    let store = open(&path("running"));
    push_library(&store, "before@1", &content(50, 3), Placement::Sparse).unwrap();
    let log = newest(&path("running"), ".log");
    let acknowledged = fs::metadata(&log).unwrap().len();
    copy_running(&path("running"), &path("stopped"));
    push_library(&store, "during@1", &content(51, 90), Placement::Sparse).unwrap();
    // Segments and the journal have it before the index.
    for part in ["segments", "journal"] {
        gone(&path("stopped").join(part));
        copy(&path("running").join(part), &path("stopped").join(part));
    }
    let whole = fs::read(&log).unwrap();
    drop(store);
    let record = whole.len() - acknowledged as usize;
    for (nth, written) in (0..=record)
        .step_by(record / 16)
        .chain([record])
        .enumerate()
    {
        // Cut there; zeros from there; the other half of the record zero.
        for shape in 0..3 {
            let mut torn = whole.clone();
            let cut = acknowledged as usize + written;
            match shape {
                0 => torn.truncate(cut),
                1 => torn[cut..].fill(0),
                _ => torn[acknowledged as usize..cut].fill(0),
            }
            copy(&path("stopped"), &path("store"));
            let name = path("store/index").join(log.file_name().unwrap());
            fs::write(name, &torn).unwrap();
            let store = reopen(&path("store")).unwrap();
            assert_whole(&store);
            assert_stored(&store, &content(50, 3));
            assert!(store.library(&library_ref("during@1")).unwrap().is_some());
            assert_stored(&store, &content(51, 90));
            push_library(&store, "after@1", &content(52, 90), Placement::Sparse).unwrap();
            drop(store);
            let store = reopen(&path("store")).unwrap();
            assert_whole(&store);
            assert_stored(&store, &content(52, 90));
            drop(store);
            gone(&path("store"));
            assert!(nth < 64);
        }
    }
}
