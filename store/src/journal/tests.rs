//! Logs of both forms, long ones, and ones of which little is left.

use std::fs::File;

use pool_core::digest::ObjectId;
use pool_tests::disk::SmallDisk;

use super::frame::{Change, DIGEST, encode};
use super::*;
use crate::catalogue::{Catalogue, Entry, Header as CatalogueHeader};
use crate::manifest::TokenScope;
use crate::testing::{self, SEGMENT_BYTES, content};

/// A store's journal of which nothing but the beginning is there.
struct Begun {
    _directory: Option<tempfile::TempDir>,
    path: PathBuf,
    identity: [u8; 16],
}

/// Each commit's number, digest and changes.
type Read = Vec<(u64, Digest, Vec<u8>)>;

impl Begun {
    /// With a log of this form.
    fn of(form: Form) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let begun = Self::at(directory.path(), form);
        Self {
            _directory: Some(directory),
            ..begun
        }
    }

    /// The same, of a store in this directory.
    fn at(directory: &Path, form: Form) -> Self {
        let store = testing::open(directory);
        let begun = Self {
            path: directory.join("journal"),
            identity: store.superblock().identity,
            _directory: None,
        };
        drop(store);
        let log = begun.log(0);
        let mut bytes = [0; HEADER];
        log.read_exact_at(&mut bytes, 0).unwrap();
        let header = Header::decode(&bytes).unwrap();
        assert_eq!(header.form, Form::Masked);
        log.write_all_at(&Header { form, ..header }.encode(), 0)
            .unwrap();
        begun
    }

    fn log(&self, base: u64) -> File {
        let path = names::path(&self.path, Name::Log(base));
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn open(&self, form: Form) -> Journal {
        let (found, _) = self.read().unwrap();
        Journal::open(&self.path, self.identity, SEGMENT_BYTES, form, &found).unwrap()
    }

    fn read(&self) -> std::result::Result<(Found, Read), Unusable> {
        let mut commits = Read::new();
        let found = read(&self.path, self.identity, |number, digest, changes| {
            commits.push((number, *digest, changes.to_vec()));
        });
        Ok((found?, commits))
    }

    fn bases(&self) -> Vec<u64> {
        names::list(&self.path).unwrap().0
    }
}

fn put(value: &[u8]) -> Vec<u8> {
    put_at("places/a@1", value)
}

fn put_at(key: &str, value: &[u8]) -> Vec<u8> {
    let mut changes = Vec::new();
    let change = Change {
        family: 1,
        key: key.as_bytes(),
        value: Some(value),
    };
    change.add_to(&mut changes);
    changes
}

fn commit(journal: &mut Journal, changes: &[u8]) {
    journal.append(journal.last + 1, changes).unwrap();
    journal.confirm();
}

#[test]
fn what_a_client_puts_into_a_record_is_no_frame_when_a_stop_tears_its_own() {
    // As a client would choose it: after a digest of its own a frame that is whole.
    let previous = [7; DIGEST];
    let (crafted, _) = encode(&previous, 5, &put(b"mine"), None).unwrap();
    let record = put(&[&[1; 4096][..], &previous, &crafted, &[1; 4096]].concat());
    for form in [Form::Plain, Form::Masked] {
        let begun = Begun::of(form);
        let mut journal = begun.open(form);
        commit(&mut journal, &put(b"before"));
        let end = journal.log.end;
        journal.append(2, &record).unwrap();
        journal.confirm();
        let whole = journal.log.end;
        drop(journal);
        assert!(whole - end > 8192);
        // All but its last bytes got to the disk.
        begun.log(0).set_len(whole - 8).unwrap();
        let read = begun.read();
        match form {
            // Whatever is there, old releases' logs tell no more. This one says that the test would find it.
            Form::Plain => {
                let unusable = read.unwrap_err();
                assert_eq!(unusable.seen, 5, "{}", unusable.why);
            }
            Form::Masked => {
                let (found, commits) = read.unwrap();
                assert_eq!((found.last, commits.len()), (1, 1));
                let mut journal = begun.open(form);
                commit(&mut journal, &record);
                assert_eq!(begun.read().unwrap().1[1].2, record);
            }
        }
    }
}

#[test]
fn a_log_comes_to_its_end_though_no_checkpoint_is_written() {
    let begun = Begun::of(Form::Masked);
    let mut journal = begun.open(Form::Masked);
    journal.most = 16 << 10;
    let changes = |nth: u64| put(&[nth as u8; 5000]);
    for nth in 1..=10 {
        commit(&mut journal, &changes(nth));
    }
    assert_eq!(begun.bases(), [0, 4, 8]);
    let logged = journal.logged;
    drop(journal.turn(false).unwrap());
    assert_eq!(begun.bases(), [0, 4, 8, 10]);
    for nth in 11..=20 {
        commit(&mut journal, &changes(nth));
    }
    assert_eq!(begun.bases(), [0, 4, 8, 10, 14, 18]);
    assert_eq!(journal.logged, logged * 2);
    // As a checkpoint of what there was when that log was begun leaves it.
    journal.turned(1000);
    assert_eq!(journal.logged, logged);
    let (found, commits) = begun.read().unwrap();
    assert_eq!((found.last, commits.len()), (20, 20));
    for (number, _, found) in commits {
        assert!(found == changes(number), "{number}");
    }
    // Where none can be begun it goes on.
    fs::create_dir(names::unfinished(&begun.path, Name::Log(22))).unwrap();
    for nth in 21..=23 {
        commit(&mut journal, &changes(nth));
    }
    assert_eq!(begun.bases(), [0, 4, 8, 10, 14, 18]);
    fs::remove_dir(names::unfinished(&begun.path, Name::Log(22))).unwrap();
    commit(&mut journal, &changes(24));
    assert_eq!(begun.bases(), [0, 4, 8, 10, 14, 18, 23]);
    assert_eq!(begun.read().unwrap().1.len(), 24);
}

#[test]
fn a_log_of_an_old_release_is_read_and_another_one_begun() {
    let begun = Begun::of(Form::Plain);
    // As long as the superblock does not tell of the new form.
    let mut journal = begun.open(Form::Plain);
    commit(&mut journal, &put(b"first"));
    drop(journal);
    let mut journal = begun.open(Form::Plain);
    commit(&mut journal, &put(b"second"));
    drop(journal);
    assert_eq!(begun.bases(), [0]);
    let in_the_way = names::unfinished(&begun.path, Name::Log(2));
    fs::create_dir(&in_the_way).unwrap();
    let mut journal = begun.open(Form::Masked);
    commit(&mut journal, &put(b"third"));
    drop(journal);
    assert_eq!(begun.bases(), [0]);
    fs::remove_dir(&in_the_way).unwrap();
    for _ in 0..2 {
        drop(begun.open(Form::Masked));
        assert_eq!(begun.bases(), [0, 3]);
    }
    let mut journal = begun.open(Form::Masked);
    commit(&mut journal, &put(b"fourth"));
    let (_, commits) = begun.read().unwrap();
    let changes = commits.into_iter().map(|(_, _, changes)| changes);
    let expected = ["first", "second", "third", "fourth"].map(|value| put(value.as_bytes()));
    assert_eq!(changes.collect::<Vec<_>>(), expected);
    let whole = fs::read(names::path(&begun.path, Name::Log(0))).unwrap();
    assert!(whole.windows(5).any(|bytes| bytes == b"third"));
    let whole = fs::read(names::path(&begun.path, Name::Log(3))).unwrap();
    assert!(!whole.windows(6).any(|bytes| bytes == b"fourth"));
}

#[test]
fn what_follows_a_commit_is_found_in_a_log_of_any_length() {
    for form in [Form::Plain, Form::Masked] {
        let begun = Begun::of(form);
        let mut journal = begun.open(form);
        for nth in 1..=3u8 {
            commit(&mut journal, &put(&[nth; 100]));
        }
        let end = journal.log.end as usize;
        drop(journal);
        let (_, commits) = begun.read().unwrap();
        let second = commits[1].1;
        let log = begun.log(0);
        let mut bytes = vec![0; end];
        log.read_exact_at(&mut bytes, 0).unwrap();
        let at = bytes.windows(DIGEST).position(|bytes| *bytes == second);
        // All before that is gone, and it lies where a log of 5 GiB would have it.
        let rest = bytes.split_off(at.unwrap());
        for keeps_header in [true, false] {
            log.set_len(if keeps_header { HEADER as u64 } else { 0 })
                .unwrap();
            log.write_all_at(&rest, 5 << 30).unwrap();
            assert_eq!(following(&begun.path, 2, second).unwrap(), commits[2..]);
        }
        assert_eq!(following(&begun.path, 1, commits[0].1).unwrap(), []);
        assert_eq!(following(&begun.path, 2, Digest::default()).unwrap(), []);
    }
}

/// Entries of the checkpoint of commit `number`.
fn entries(directory: &Path, number: u64) -> Vec<(Entry, Vec<u8>, Vec<u8>)> {
    let path = names::path(directory, Name::Checkpoint(number));
    let catalogue = Catalogue::open(&path, "").unwrap().unwrap();
    let mut all = Vec::new();
    catalogue
        .each(|entry, key, value| {
            all.push((entry, key.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn a_checkpoint_of_the_journal_alone_has_what_one_of_the_index_has() {
    for most in [1, 400, usize::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::open(directory.path());
        let journal = directory.path().join("journal");
        let add = |name: &str| {
            let secret = ObjectId::of(name.as_bytes());
            store.add_token(name, secret, TokenScope::Read).unwrap();
        };
        let push = |name: &str, seed: u64, pages: usize| {
            testing::push(&store, name, &content(seed, pages)).unwrap();
        };
        ["b", "d"].into_iter().for_each(add);
        push("l@1", 0, 3);
        for round in 0..2 {
            // What is new lies before, between and behind what was, and some of that goes or becomes another.
            ["a", "c", "e"].into_iter().for_each(add);
            push(&format!("k@{round}"), 1 + round, 600);
            push(&format!("m@{round}"), 3 + round, 1);
            store.delete_token("d").unwrap();
            store.delete_library(&"l@1".parse().unwrap()).unwrap();
            let last = store.generation().unwrap();
            let checkpointer = Checkpointer {
                directory: journal.clone(),
                identity: store.superblock().identity,
                segment_bytes: SEGMENT_BYTES,
                last,
            };
            assert_eq!(checkpointer.merge_by(most).unwrap().0, last);
            let merged = entries(&journal, last);
            let header = |path| Catalogue::peek(path).unwrap();
            let path = names::path(&journal, Name::Checkpoint(last));
            let told = header(&path);
            assert!(store.checkpoint().unwrap());
            assert!(merged == entries(&journal, last), "{most} {round}");
            let begun_at = told.begun_at;
            assert_eq!(
                CatalogueHeader {
                    begun_at,
                    ..header(&path)
                },
                told
            );
            if round == 0 {
                for name in ["a", "c", "e"] {
                    store.delete_token(name).unwrap();
                }
                add("d");
                push("l@1", 0, 3);
            }
        }
    }
}

/// Bytes that this thread has read so far.
fn bytes_read() -> u64 {
    let told = fs::read_to_string("/proc/thread-self/io").unwrap();
    let read = told.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.unwrap().parse().unwrap()
}

#[test]
fn logs_are_read_once_however_much_is_merged() {
    let [at_once, in_pieces] = [usize::MAX, 20_000].map(|most| {
        let begun = Begun::of(Form::Masked);
        let mut journal = begun.open(Form::Masked);
        journal.most = 64 << 10;
        for nth in 1..=100 {
            commit(&mut journal, &put(&[nth; 5000]));
        }
        let checkpointer = journal.turn(true).unwrap();
        let before = bytes_read();
        assert_eq!(checkpointer.merge_by(most).unwrap().0, 100);
        let read = bytes_read() - before;
        let merged = entries(&begun.path, 100);
        assert!(merged.iter().any(|(_, _, value)| *value == [100; 5000]));
        // Only what has a name is left, and nothing that is not needed.
        let left = begun.path.read_dir().unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        left.sort();
        let names =
            [Name::Checkpoint(100), Name::Log(100)].map(|name| names::path(&begun.path, name));
        assert_eq!(left, names);
        read
    });
    assert!(at_once > 100 * 5000);
    assert!(in_pieces < at_once * 3 / 2, "{in_pieces} {at_once}");
}

#[test]
fn a_merge_needs_room_for_one_copy_however_much_is_merged() {
    const LARGE: u64 = 12 << 20;
    let Some(disk) = SmallDisk::new(128).unwrap() else {
        return;
    };
    let begun = Begun::at(&disk.path().join("store"), Form::Masked);
    let mut journal = begun.open(Form::Masked);
    let value = vec![1; 1 << 20];
    for nth in 0..LARGE >> 20 {
        commit(&mut journal, &put_at(&format!("places/a@{nth:02}"), &value));
    }
    let (last, bytes) = journal.turn(true).unwrap().merge_by(usize::MAX).unwrap();
    assert_eq!(last, LARGE >> 20);
    assert!(bytes > LARGE);
    for nth in 0..5 {
        let key = format!("places/b@{nth}");
        commit(&mut journal, &put_at(&key, &vec![nth; 50_000]));
    }
    let checkpointer = journal.turn(true).unwrap();
    // Each of them is put down by itself. Beside a copy there is room for what is read ahead, and for what was not given back yet.
    disk.leave(bytes + (4 << 20)).unwrap();
    let (last, more) = checkpointer.merge_by(1).unwrap();
    assert_eq!(last, (LARGE >> 20) + 5);
    let merged = entries(&begun.path, last);
    assert!(more > bytes && merged.iter().any(|(_, _, value)| *value == vec![4; 50_000]));
    assert_eq!(names::list_unfinished(&begun.path).unwrap(), []);
}

#[test]
fn a_checkpoint_that_was_left_unfinished_goes_before_the_next_one_is_written() {
    let begun = Begun::of(Form::Masked);
    let mut journal = begun.open(Form::Masked);
    commit(&mut journal, &put(b"value"));
    let left = names::unfinished(&begun.path, Name::Checkpoint(7));
    // Somebody may be making it.
    let log = names::unfinished(&begun.path, Name::Log(9));
    let others = ["7.checkpoint.new", "0000000000000007.checkpoint.new.new"];
    let others = others.map(|name| begun.path.join(name));
    for path in [&left, &log].into_iter().chain(&others) {
        fs::write(path, b"half").unwrap();
    }
    let checkpointer = journal.turn(true).unwrap();
    // The next one cannot be written, and its place is taken.
    let taken = names::unfinished(&begun.path, Name::Checkpoint(1));
    fs::create_dir(&taken).unwrap();
    checkpointer.merge_by(usize::MAX).unwrap_err();
    assert!(!left.exists() && taken.is_dir());
    fs::remove_dir(&taken).unwrap();
    assert_eq!(checkpointer.merge_by(usize::MAX).unwrap().0, 1);
    for path in [&log].into_iter().chain(&others) {
        assert_eq!(fs::read(path).unwrap(), b"half");
    }
}
